#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU built with the driver: -blockdev, blockdev-add, -create, daemon."""
import json

from qmp import (WORK, Daemon, Refused, System, content, expect_refusal,
                 holder, main, run, wait_for)

MIB = 1 << 20
STORE = f'dir:{WORK}/store'


def created(process, **options):
    """blockdev-create, through to its job's end."""
    options = {key.replace('_', '-'): value for key, value in options.items()}
    process.qmp('blockdev-create', job_id='create', options=options)
    process.run_job('create')
    process.qmp('job-dismiss', id='create')


def blockdev_create():
    with Daemon('qsd') as qsd:
        created(qsd, driver='archipelago', size=8 * MIB,
                location={'volume': 'created'})
        created(qsd, driver='archipelago', size=MIB, object_size=65536,
                location={'volume': 'small', 'store': STORE})
        qsd.qmp('blockdev-create', job_id='again', options={
            'driver': 'archipelago', 'size': MIB,
            'location': {'volume': 'small'}})
        try:
            qsd.run_job('again')
            raise AssertionError('created twice')
        except AssertionError as error:
            assert 'small' in str(error), error
        qsd.quit()
    said = run('QEMU_IMG', 'info', 'archipelago:created')
    assert 'virtual size: 8 MiB' in said, said


def blockdev_add():
    """Add, write, see the lock, reopen, remove; options are checked."""
    with System('vm', '-device', 'pcie-root-port,id=rp0') as vm:
        created(vm, driver='archipelago', size=8 * MIB,
                location={'volume': 'added'})
        vm.qmp('blockdev-add', driver='archipelago', node_name='n0',
               volume='added', store=STORE)
        vm.qmp('device_add', driver='virtio-blk-pci', id='disk', drive='n0',
               bus='rp0')
        vm.io('-d /machine/peripheral/disk/virtio-backend', 'write -P 5 1M 1M')
        assert holder('added')[1] == vm.pid
        vm.qmp('blockdev-add', driver='archipelago', node_name='ro',
               volume='added', read_only=True)
        expect_refusal(str(vm.pid), vm.qmp, 'blockdev-add',
                       driver='archipelago', node_name='n1', volume='added')
        expect_refusal('volume', vm.qmp, 'blockdev-add', driver='archipelago',
                       node_name='n1')
        expect_refusal('snapshots', vm.qmp, 'blockdev-add',
                       driver='archipelago', node_name='n1', volume='added',
                       snapshot='s')
        expect_refusal('pool', vm.qmp, 'blockdev-add', driver='archipelago',
                       node_name='n1', volume='added', pool='s')
        vm.qmp('blockdev-del', node_name='ro')
        vm.quit()
    assert content('added', MIB, MIB) == b'\5' * MIB


def blockdev_reopen():
    with Daemon('qsd') as qsd:
        created(qsd, driver='archipelago', size=MIB,
                location={'volume': 'reopened'})
        node = {'driver': 'archipelago', 'node-name': 'n0',
                'volume': 'reopened'}
        qsd.qmp('blockdev-add', **node)
        assert holder('reopened')
        qsd.qmp('blockdev-reopen', options=[{**node, 'read-only': True}])
        assert holder('reopened') is None
        qsd.qmp('blockdev-reopen', options=[node])
        assert holder('reopened')[1] == qsd.pid
        expect_refusal('volume', qsd.qmp, 'blockdev-reopen',
                       options=[{**node, 'volume': 'other'}])
        qsd.qmp('blockdev-del', node_name='n0')
        assert holder('reopened') is None
        qsd.quit()


def command_line():
    """-blockdev, qcow2 above, an iothread that moves it."""
    run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', 'archipelago:line', '16M')
    with System('vm', '-object', 'iothread,id=t0',
                '-blockdev', 'archipelago,node-name=p0,volume=line',
                '-blockdev', 'qcow2,node-name=q0,file=p0',
                '-device', 'virtio-blk-pci,id=disk,drive=q0,iothread=t0') as vm:
        vm.io('-d /machine/peripheral/disk/virtio-backend', 'write -P 6 3M 1M')
        vm.io('-d /machine/peripheral/disk/virtio-backend', 'read -P 6 3M 1M')
        vm.quit()
    said = run('QEMU_IMG', 'check', '-f', 'qcow2', 'archipelago:line')
    assert 'No errors' in said, said


def export_deleted(qsd):
    try:
        qsd.qmp('block-export-del', id='e0')
        return True
    except Refused:
        return False


def daemon_export():
    """The storage daemon serves a volume; two ways in agree.

    No iothread: QEMU 7.2's NBD server aborts when a client leaves one."""
    run('QEMU_IMG', 'create', '-q', '-f', 'raw', 'archipelago:export', '16M')
    path = f'{WORK}/nbd.sock'
    with Daemon('qsd', '--blockdev',
                'archipelago,node-name=n0,volume=export,discard=unmap',
                '--nbd-server', f'addr.type=unix,addr.path={path}',
                '--export', 'nbd,id=e0,node-name=n0,name=vol,writable=on'
                ) as qsd:
        uri = f'nbd+unix:///vol?socket={path}'
        run('QEMU_IO', '-f', 'raw', '-c', 'write -P 1 0 5M', '-c',
            'write -P 2 12345 6789', '-c', 'write -z -u 2M 1M', '-c',
            'write -f -P 3 15M 1M', '-c', 'flush', uri)
        wait_for(lambda: export_deleted(qsd), 'the client to be gone')
        qsd.quit()
    expected = bytearray(b'\1' * 5 * MIB + bytes(10 * MIB) + b'\3' * MIB)
    expected[12345:12345 + 6789] = b'\2' * 6789
    expected[2 * MIB:3 * MIB] = bytes(MIB)
    assert content('export', 0, 16 * MIB) == expected


def backup_and_commit():
    """A volume as target of a backup and as the base that a commit writes."""
    for name in 'base', 'copy':
        run('QEMU_IMG', 'create', '-q', '-f', 'raw', f'archipelago:{name}',
            '8M')
    run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', '-b', 'archipelago:base',
        '-F', 'raw', f'{WORK}/top.qcow2')
    with Daemon('qsd', '--blockdev', f'file,node-name=f0,filename={WORK}/'
                'top.qcow2', '--blockdev', 'qcow2,node-name=top,file=f0',
                '--blockdev', 'archipelago,node-name=copy,volume=copy',
                '--nbd-server', f'addr.type=unix,addr.path={WORK}/top.sock',
                '--export', 'nbd,id=e0,node-name=top,writable=on') as qsd:
        assert holder('base') is None
        run('QEMU_IO', '-f', 'raw', '-c', 'write -P 4 1M 2M',
            f'nbd+unix:///top?socket={WORK}/top.sock')
        wait_for(lambda: export_deleted(qsd), 'the client to be gone')
        qsd.qmp('blockdev-backup', job_id='b', device='top', target='copy',
                sync='full')
        qsd.run_job('b')
        qsd.qmp('block-commit', job_id='c', device='top')
        qsd.run_job('c')
        qsd.qmp('job-complete', id='c')
        qsd.run_job('c')
        qsd.quit()
    for name in 'base', 'copy':
        assert content(name, MIB, 2 * MIB) == b'\4' * (2 * MIB), name


def storage(name, **options):
    """A volume as libvirt adds it, a node of its own."""
    return {'driver': 'archipelago', 'node-name': f'{name}-storage',
            'volume': name, 'auto-read-only': True, 'discard': 'unmap',
            **options}


def image(name, form, **options):
    """The image in it, as libvirt adds it."""
    return {'driver': form, 'node-name': name, 'file': f'{name}-storage',
            **options}


def add(process, name, form, **options):
    process.qmp('blockdev-add', **storage(name))
    process.qmp('blockdev-add', **image(name, form, **options))


def auto_read_only():
    """The lock comes with who wants to write, and goes with him."""
    run('QEMU_IMG', 'create', '-q', '-f', 'raw', 'archipelago:auto', '2M')
    with Daemon('qsd', '--nbd-server',
                f'addr.type=unix,addr.path={WORK}/auto.sock') as qsd:
        export = {'id': 'e0', 'type': 'nbd', 'node_name': 'auto-storage'}
        qsd.qmp('blockdev-add', **storage('auto'))
        assert holder('auto') is None
        qsd.qmp('block-export-add', **export)
        assert holder('auto') is None
        qsd.qmp('block-export-del', id='e0')

        # Somebody else writes and makes it longer meanwhile.
        run('QEMU_IMG', 'resize', '-f', 'raw', 'archipelago:auto', '12M')
        run('QEMU_IO', '-f', 'raw', '-c', 'write -P 1 1M 64K',
            'archipelago:auto')
        qsd.qmp('block-export-add', **export, writable=True)
        assert holder('auto')[1] == qsd.pid
        run('QEMU_IO', '-t', 'unsafe', '-f', 'raw', '-c', 'read -P 1 1M 64K',
            '-c', 'read -P 0 0 1M', '-c', 'write -P 2 8M 1M',
            f'nbd+unix:///auto-storage?socket={WORK}/auto.sock')
        wait_for(lambda: export_deleted(qsd), 'the client to be gone')
        wait_for(lambda: holder('auto') is None, 'the lock to be given back')

        # The client never flushed.
        assert content('auto', 8 * MIB, MIB) == b'\2' * MIB
        qsd.qmp('block-export-add', **export)
        run('QEMU_IO', '-r', '-f', 'raw', '-c', 'read -P 2 8M 1M',
            f'nbd+unix:///auto-storage?socket={WORK}/auto.sock')
        assert holder('auto') is None
        qsd.quit()


def auto_kept():
    """What can't be made durable stays with the one who has written it."""
    run('QEMU_IMG', 'create', '-q', '-f', 'raw', 'archipelago:kept', '2M')
    with Daemon('qsd', '--nbd-server',
                f'addr.type=unix,addr.path={WORK}/kept.sock') as qsd:
        export = {'id': 'e0', 'type': 'nbd', 'node_name': 'kept-storage',
                  'writable': True}
        qsd.qmp('blockdev-add', **storage('kept'),
                store=f'fault:op=sync,times=1:{STORE}')
        qsd.qmp('block-export-add', **export)
        run('QEMU_IO', '-t', 'unsafe', '-f', 'raw', '-c', 'write -P 3 1M 64K',
            f'nbd+unix:///kept-storage?socket={WORK}/kept.sock')
        wait_for(lambda: export_deleted(qsd), 'the client to be gone')
        wait_for(lambda: 'stays open for writing' in qsd.said(),
                 'the flush to fail')
        assert holder('kept')[1] == qsd.pid
        qsd.qmp('block-export-add', **export)
        run('QEMU_IO', '-r', '-f', 'raw', '-c', 'read -P 3 1M 64K',
            f'nbd+unix:///kept-storage?socket={WORK}/kept.sock')
        wait_for(lambda: export_deleted(qsd), 'the client to be gone')
        qsd.qmp('blockdev-del', node_name='kept-storage')
        assert holder('kept') is None
        qsd.quit()


def auto_reopen():
    """Reopening the image moves the volume's lock; all nodes or none."""
    for name in 'auto1', 'auto2':
        run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', f'archipelago:{name}',
            '2M')
    writable = [image(name, 'qcow2') for name in ('auto1', 'auto2')]
    read_only = [{**one, 'read-only': True} for one in writable]
    with Daemon('qsd') as qsd, Daemon('other') as other:
        for name in 'auto1', 'auto2':
            add(qsd, name, 'qcow2', read_only=True)
        assert holder('auto1') is None
        qsd.qmp('blockdev-reopen', options=writable)
        assert holder('auto1')[1] == holder('auto2')[1] == qsd.pid
        qsd.qmp('blockdev-reopen', options=read_only)
        assert holder('auto1') is None and holder('auto2') is None

        for name, free in ('auto1', 'auto2'), ('auto2', 'auto1'):
            add(other, name, 'qcow2')
            assert holder(name)[1] == other.pid
            expect_refusal(str(other.pid), qsd.qmp, 'blockdev-reopen',
                           options=writable)
            assert holder(name)[1] == other.pid
            assert holder(free) is None
            other.qmp('blockdev-del', node_name=name)
            other.qmp('blockdev-del', node_name=f'{name}-storage')
        qsd.qmp('blockdev-reopen', options=writable)
        qsd.quit()
        add(other, 'auto1', 'qcow2')
        other.quit()


def auto_refused():
    """The one who comes second is told who is the first, and goes on."""
    run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', 'archipelago:first', '2M')
    with Daemon('qsd') as qsd, Daemon('other') as other:
        add(qsd, 'first', 'qcow2')
        assert holder('first')[1] == qsd.pid
        other.qmp('blockdev-add', **storage('first'))
        expect_refusal(str(qsd.pid), other.qmp, 'blockdev-add',
                       **image('first', 'qcow2'))
        other.qmp('blockdev-add', **image('first', 'qcow2', read_only=True))
        other.qmp('blockdev-del', node_name='first')
        qsd.qmp('blockdev-del', node_name='first')
        other.qmp('blockdev-add', **image('first', 'qcow2'))
        assert holder('first')[1] == other.pid
        other.quit()
        qsd.quit()


def machine(name, *backing):
    """A machine whose disk NAME is upon these volumes, the last one raw."""
    nodes, below = [], None
    for one in *reversed(backing), name:
        form = 'qcow2' if below else 'raw'
        node = image(one, form, **{'read-only': one != name})
        if below:
            node['backing'] = below
        nodes += ['-blockdev', json.dumps(storage(one)),
                  '-blockdev', json.dumps(node)]
        below = one
    return System(name, '-object', 'iothread,id=t0', *nodes, '-device',
                  f'virtio-blk-pci,id=disk,drive={name},iothread=t0')


def shared_base():
    """Two machines upon one base.  A commit has its lock for as long as it
    runs, and others may read it; not commit."""
    disk = '-d /machine/peripheral/disk/virtio-backend'
    run('QEMU_IMG', 'create', '-q', '-f', 'raw', 'archipelago:shared', '8M')
    run('QEMU_IO', '-f', 'raw', '-c', 'write -P 1 0 8M', 'archipelago:shared')
    for name, backing, form in (('mid', 'shared', 'raw'),
                                ('vm1', 'mid', 'qcow2'),
                                ('vm2', 'shared', 'raw')):
        run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', '-b',
            f'archipelago:{backing}', '-F', form, f'archipelago:{name}')
    run('QEMU_IO', '-f', 'qcow2', '-c', 'write -P 2 1M 2M', 'archipelago:mid')
    with machine('vm1', 'mid', 'shared') as vm1, \
            machine('vm2', 'shared') as vm2:
        assert holder('shared') is None and holder('mid') is None
        for vm in vm1, vm2:
            assert holder('vm1')[1] == vm1.pid
            vm.io(disk, 'read -P 1 0 1M')
            vm.io(disk, 'write -P 5 7M 64K')
        run_slowly = {'speed': 65536, 'auto_dismiss': False, 'job_id': 'c'}
        vm1.qmp('block-commit', device='vm1', top_node='mid',
                base_node='shared', **run_slowly)
        assert holder('shared')[1] == vm1.pid and holder('mid') is None
        expect_refusal(str(vm1.pid), vm2.qmp, 'block-commit', device='vm2',
                       base_node='shared', job_id='d')
        vm2.io(disk, 'read -P 1 4M 1M')
        vm2.io(disk, 'write -P 6 6M 64K')
        vm1.qmp('block-job-set-speed', device='c', speed=0)
        vm1.run_job('c')
        wait_for(lambda: holder('shared') is None, 'the lock to be given back')
        assert content('shared', MIB, 2 * MIB) == b'\2' * 2 * MIB

        vm2.qmp('block-commit', device='vm2', base_node='shared', job_id='d')
        assert holder('shared')[1] == vm2.pid
        vm1.io(disk, 'read -P 2 1M 2M')
        vm2.run_job('d')
        vm2.qmp('job-complete', id='d')
        wait_for(lambda: not vm2.qmp('query-jobs'), 'the pivot')
        vm2.io(disk, 'read -P 2 1M 2M')
        vm2.io(disk, 'write -P 7 5M 64K')
        assert holder('shared')[1] == vm2.pid
        vm2.qmp('blockdev-del', node_name='vm2')
        vm1.quit()
        vm2.quit()
    assert content('shared', 5 * MIB, 65536) == b'\7' * 65536
    assert content('shared', 6 * MIB, 65536) == b'\6' * 65536


def schema():
    """Management software finds the driver described."""
    with Daemon('qsd') as qsd:
        text = str(qsd.qmp('query-qmp-schema'))
        assert "'archipelago'" in text
        qsd.quit()


main([blockdev_create, blockdev_add, blockdev_reopen, command_line,
      daemon_export, backup_and_commit, auto_read_only, auto_kept,
      auto_reopen, auto_refused, shared_base, schema])
