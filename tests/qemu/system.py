#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qemu-system on volumes without an operating system: what its monitor does."""
from qmp import (TIMEOUT_S, System, Refused, content, expect_refusal, holder,
                 main, run, wait_for)

MIB = 1 << 20
VIRTIO = 'virtio-blk-pci,drive=d0,id=disk'


def drive(name, more=''):
    return f'file=archipelago:{name},format=raw,if=none,id=d0{more}'


def create(name, size='16M'):
    run('QEMU_IMG', 'create', '-q', '-f', 'raw', f'archipelago:{name}', size)


def check(vm, name, drain=True):
    """Data goes through, lands in the volume, comes back.  Not to `drain`
    where an iothread works: HMP's qemu-io of QEMU 7.2 holds the lock that the
    iothread needs for finishing what is in flight."""
    vm.io('d0', 'write -P 1 0 64K')
    vm.io('d0', 'write -P 2 5000 3000')
    if drain:
        vm.io('d0', 'aio_write -P 3 4M 1M')
        vm.io('d0', 'aio_flush')
    else:
        vm.io('d0', 'write -P 3 4M 1M')
    vm.io('d0', 'read -P 3 4M 1M')
    vm.io('d0', 'flush')
    assert content(name, 4999, 3002) == b'\1' + b'\2' * 3000 + b'\1'
    assert content(name, 4 * MIB, MIB) == b'\3' * MIB


def drive_and_name():
    create('drive')
    with System('a', '-drive', drive('drive'), '-device', VIRTIO) as vm:
        check(vm, 'drive')
        assert holder('drive')[1] == vm.pid
        assert 'archipelago:drive' in vm.hmp('info block')
        expect_no_start(str(vm.pid), '-drive', drive('drive'), '-device',
                        VIRTIO)
        vm.quit()
    assert holder('drive') is None


def drive_unused():
    """QEMU makes a -drive writable if need be: no device, no lock."""
    create('unused')
    with System('a', '-drive', drive('unused'), '-device', VIRTIO) as vm:
        vm.io('d0', 'write -P 1 0 64K')
        vm.io('d0', 'flush')
        with System('b', '-drive', drive('unused')) as other:
            other.io('d0', 'read -P 1 0 64K')
            said = other.hmp('qemu-io d0 "write 0 512"')
            assert str(vm.pid) in said, said
            assert holder('unused')[1] == vm.pid
            vm.quit()
            assert holder('unused') is None
            other.io('d0', 'write -P 2 0 64K')
            other.quit()
    assert content('unused', 0, 65536) == b'\2' * 65536


def expect_no_start(text, *arguments):
    vm = System('none', *arguments)
    try:
        vm.attach()
        assert vm.child.wait(TIMEOUT_S) == 1
    finally:
        vm.child.kill()
    assert text in vm.said(), f"'{text}' is not in: {vm.said()}"


def hot_plug():
    create('plug')
    # Firmware that probes a virtio device while it is plugged or unplugged crashes
    # QEMU 10.0's own virtio_config_readl(): processors stand still.
    with System('a', '-S', '-device', 'pcie-root-port,id=rp0') as vm:
        assert 'OK' in vm.hmp('drive_add 0 ' + drive('plug'))
        vm.qmp('device_add', driver='virtio-blk-pci', id='disk', drive='d0',
               bus='rp0')
        check(vm, 'plug')
        vm.hmp('drive_del d0')
        wait_for(lambda: holder('plug') is None, 'the volume to be closed')
        said = vm.hmp('drive_add 0 ' + drive('nothing').replace('d0', 'd1'))
        assert '"nothing"' in said or "'nothing'" in said, said
        vm.quit()


def iothread():
    create('thread')
    with System('a', '-object', 'iothread,id=t0', '-drive', drive('thread'),
                '-device', VIRTIO + ',iothread=t0') as vm:
        check(vm, 'thread', drain=False)
        vm.quit()


def move_between_threads():
    """Nodes go from loop to loop, also with I/O just before."""
    create('move')
    with System('a', '-object', 'iothread,id=t0', '-object', 'iothread,id=t1',
                '-drive', drive('move', ',node-name=n0')) as vm:
        for thread in 't0', 't1', None, 't0', None:
            vm.io('d0', 'aio_write -P 5 1M 1M')
            vm.qmp('x-blockdev-set-iothread', node_name='n0', iothread=thread,
                   force=True)
            vm.io('d0', 'write -P 5 2M 1M')
            vm.io('d0', 'read -P 5 1M 2M')
        vm.quit()


def resize():
    create('resize')
    with System('a', '-drive', drive('resize'), '-device', VIRTIO) as vm:
        vm.io('d0', 'write -P 1 0 16M')
        vm.qmp('block_resize', device='d0', size=20 * MIB)
        vm.io('d0', 'read -P 0 16M 4M')
        vm.io('d0', 'write -P 2 19M 1M')
        vm.qmp('block_resize', device='d0', size=8 * MIB)
        expect_refusal('', vm.qmp, 'block_resize', device='d0', size=-1)
        vm.qmp('block_resize', device='d0', size=20 * MIB)
        vm.io('d0', 'read -P 1 0 8M')
        vm.io('d0', 'read -P 0 8M 12M')
        vm.quit()
    info = run('QEMU_IMG', 'info', 'archipelago:resize')
    assert 'virtual size: 20 MiB' in info, info


def read_only():
    create('readonly')
    with System('a', '-drive', drive('readonly', ',readonly=on')) as vm:
        assert holder('readonly') is None
        said = vm.hmp('qemu-io d0 "write 0 512"')
        assert 'not permitted' in said or 'read-only' in said, said
        vm.quit()


def mirror():
    create('source')
    create('target')
    with System('a', '-drive', drive('source'), '-device', VIRTIO) as vm:
        vm.io('d0', 'write -P 7 1M 3M')
        vm.qmp('drive-mirror', device='d0', target='archipelago:target',
               sync='full', mode='existing', format='raw', job_id='job')
        vm.run_job('job')
        vm.io('d0', 'write -P 8 10M 1M')
        vm.qmp('block-job-complete', device='job')
        wait_for(lambda: not vm.qmp('query-block-jobs'), 'the mirror')
        vm.io('d0', 'write -P 9 12M 1M')
        vm.quit()
    assert content('target', MIB, 3 * MIB) == b'\7' * (3 * MIB)
    assert content('target', 10 * MIB, MIB) == b'\10' * MIB
    assert content('target', 12 * MIB, MIB) == b'\11' * MIB
    assert content('source', 12 * MIB, MIB) == bytes(MIB)


def migrate(name, form):
    """The lock changes hands; what the source wrote last is there."""
    argument = f'file=archipelago:{name},format={form},if=none,id=d0'
    with System('src', '-drive', argument, '-device', VIRTIO) as source:
        from qmp import WORK
        address = f'unix:{WORK}/migrate-{name}'
        with System('dst', '-drive', argument, '-device', VIRTIO, '-incoming',
                    address) as target:
            source.io('d0', 'write -P 1 0 1M')
            assert holder(name)[1] == source.pid
            if form == 'raw':
                source.qmp('block_resize', device='d0', size=24 * MIB)
            source.io('d0', 'write -P 2 15M 1M')
            source.qmp('migrate', uri=address)
            wait_for(lambda: target.qmp('query-status')['status'] == 'running',
                     'the target to run')
            assert holder(name)[1] == target.pid
            target.io('d0', 'read -P 1 0 1M')
            target.io('d0', 'read -P 2 15M 1M')
            target.io('d0', 'write -P 3 1M 1M')
            if form == 'raw':
                target.io('d0', 'write -P 4 23M 1M')
            try:
                source.qmp('cont')
            except Refused as error:
                assert str(target.pid) in str(error), error
            assert source.qmp('query-status')['status'] != 'running'
            target.quit()
            # With the target gone the source may go on.
            source.qmp('cont')
            source.io('d0', 'read -P 3 1M 1M')
            source.quit()


def migrate_raw():
    create('migraw')
    migrate('migraw', 'raw')


def migrate_qcow2():
    run('QEMU_IMG', 'create', '-q', '-f', 'qcow2', 'archipelago:migqcow2',
        '16M')
    migrate('migqcow2', 'qcow2')
    check_text = run('QEMU_IMG', 'check', '-f', 'qcow2',
                     'archipelago:migqcow2')
    assert 'No errors' in check_text, check_text


def migration_fails():
    """Called off, the source keeps the volume."""
    create('fails')
    with System('a', '-drive', drive('fails'), '-device', VIRTIO) as vm:
        vm.io('d0', 'write -P 1 0 1M')
        vm.qmp('migrate', uri='exec:exit 1')
        wait_for(lambda: vm.qmp('query-migrate').get('status') == 'failed',
                 'the migration to fail')
        vm.io('d0', 'write -P 2 1M 1M')
        assert holder('fails')[1] == vm.pid
        vm.quit()


main([drive_and_name, drive_unused, hot_plug, iothread, move_between_threads,
      resize, read_only, mirror, migrate_raw, migrate_qcow2, migration_fails])
