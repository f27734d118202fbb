#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A QEMU built with the driver: -blockdev, blockdev-add, -create, daemon."""
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


def schema():
    """Management software finds the driver described."""
    with Daemon('qsd') as qsd:
        text = str(qsd.qmp('query-qmp-schema'))
        assert "'archipelago'" in text
        qsd.quit()


main([blockdev_create, blockdev_add, blockdev_reopen, command_line,
      daemon_export, backup_and_commit, schema])
