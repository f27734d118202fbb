#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exports, parameters, read-only service, and who may have a volume."""
import nbd
import os
import re
import signal
import subprocess

from nbdtest import (KiB, MiB, PLUGIN, SIZE, TOOL, NbdTest, main,
                     server_environment, wait_for)


def nbdkit(*arguments, **keywords):
    """An nbdkit that ends by itself."""
    return subprocess.run(["nbdkit", *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=server_environment(), timeout=60,
                          **keywords)


def list_exports(server):
    found = []
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_unix(server.socket)
    handle.opt_list(lambda name, description: found.append((name,
                                                            description)))
    handle.opt_abort()
    return found


class Exports(NbdTest):
    def setUp(self):
        super().setUp()
        self.create("another", 3 * 512, description="für alle")

    def test_list(self):
        self.assertEqual(list_exports(self.serve()),
                         [("another", "1.5 KiB: für alle"),
                          ("vol", "64 MiB")])

    def test_list_of_one(self):
        self.assertEqual(list_exports(self.serve("volume=another")),
                         [("another", "1.5 KiB: für alle")])

    def test_list_of_empty_store(self):
        os.mkdir(f"{self.directory}/none")
        location = f"dir:{self.directory}/none"
        self.tool("create", location, "x", 512, 0, "")
        self.tool("remove", location, "x")
        self.assertEqual(list_exports(self.serve(store=location)), [])

    def test_choice(self):
        server = self.serve()
        self.assertEqual(self.connect(server, "another").get_size(), 1536)
        self.assertEqual(self.connect(server, "vol").get_size(), SIZE)

    def test_default(self):
        server = self.serve("volume=another")
        self.assertEqual(self.connect(server).get_size(), 1536)
        self.assertEqual(self.connect(server, "another").get_size(), 1536)

    def test_bare_parameter(self):
        self.assertEqual(self.connect(self.serve("another")).get_size(), 1536)

    def test_no_default(self):
        self.assert_refused(self.serve())

    def test_other_than_the_only_one(self):
        server = self.serve("volume=another")
        self.assert_refused(server, "vol")
        self.assertIn("'vol'", server.log())

    def test_bad_names(self):
        server = self.serve()
        for name in ("unknown", "..", ".", "a/b", "../vol", "/", "vol/",
                     "x" * 200, "vol\nvol"):
            self.assert_refused(server, name)
        self.assertEqual(self.connect(server, "vol").get_size(), SIZE)

    def test_description(self):
        handle = nbd.NBD()
        handle.set_opt_mode(True)
        handle.set_full_info(True)
        handle.connect_unix(self.serve("another").socket)
        handle.opt_info()
        self.assertEqual(handle.get_export_description(),
                         "1.5 KiB: für alle")
        self.assertEqual(handle.get_canonical_export_name(), "another")
        handle.opt_abort()

    def test_new_volume_appears(self):
        server = self.serve()
        self.create("late")
        self.assertIn(("late", "64 MiB"), list_exports(server))
        self.assertEqual(self.connect(server, "late").get_size(), SIZE)


class Parameters(NbdTest):
    def assert_error(self, text, *parameters):
        """Found at the start, in the foreground, before any fork."""
        result = nbdkit("-U", f"{self.directory}/s", PLUGIN, *parameters)
        self.assertNotEqual(result.returncode, 0)
        self.assertRegex(result.stderr, text)

    def test_unknown(self):
        self.assert_error("unknown parameter 'colour'", "colour=red")

    def test_twice(self):
        self.assert_error("volume was given twice", "vol", "volume=vol")
        self.assert_error("store was given twice", "store=dir:/a",
                          "store=dir:/b")

    def test_empty(self):
        self.assert_error("store must not be empty", "store=")
        self.assert_error("volume must not be empty", "volume=")

    def test_bad_volume_name(self):
        for name in ("a/b", "..", "-x", "x" * 200):
            self.assert_error(f"parameter volume: '{name[:9]}",
                              f"store={self.location}", f"volume={name}")

    def test_missing_store(self):
        self.assert_error(f"{self.directory}/absent",
                          f"store=dir:{self.directory}/absent")

    def test_bad_location(self):
        self.assert_error("nosuch:thing", "store=nosuch:thing")

    def test_missing_volume(self):
        self.assert_error("absent", f"store={self.location}", "absent")

    def test_store_from_environment(self):
        os.environ["ARCHIPELAGO_STORE"] = self.location
        self.addCleanup(os.environ.pop, "ARCHIPELAGO_STORE")
        result = nbdkit("-U", "-", PLUGIN, "vol", "--run",
                        "nbdinfo --size $uri")
        self.assertEqual((result.stdout.strip(), result.stderr),
                         (str(SIZE), ""))

    def test_relative_store_in_background(self):
        """nbdkit forks and changes its directory; the store stays."""
        socket, pid_path = f"{self.directory}/s", f"{self.directory}/pid"
        result = nbdkit("-U", socket, "-P", pid_path, PLUGIN, "store=dir:store",
                        "vol", cwd=self.directory)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        pid = int(wait_for(lambda: self.content(pid_path), "the pid file"))
        self.addCleanup(os.kill, pid, signal.SIGKILL)
        handle = nbd.NBD()
        handle.connect_unix(socket)
        handle.pwrite(b"background", 0)
        handle.flush()
        self.assertEqual(handle.pread(10, 0), b"background")
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")

    def content(self, path):
        """None until it is there."""
        if not os.path.exists(path):
            return None
        with open(path) as file:
            return file.read()

    def test_create(self):
        """Made when it is missing, left as it is when it is there."""
        server = self.serve("volume=made", "create=3M")
        handle = self.connect(server)
        self.assertEqual(handle.get_size(), 3 * MiB)
        handle.pwrite(b"kept", 4096)
        handle.flush()
        server.kill()
        handle = self.connect(self.serve("volume=made", "create=9M"))
        self.assertEqual(handle.get_size(), 3 * MiB)
        self.assertEqual(handle.pread(4, 4096), b"kept")

    def test_create_in_memory(self):
        server = self.serve("volume=made", "create=3M", store="memory:made")
        handle = self.connect(server)
        handle.pwrite(b"made", 2 * MiB)
        self.assertEqual(self.connect(server).pread(4, 2 * MiB), b"made")

    def test_create_refused(self):
        self.assert_error("create needs volume=NAME", "create=3M",
                          f"store={self.location}")
        self.assert_error("large", "made", "create=large",
                          f"store={self.location}")
        self.assert_error("multiple of 512", "made", "create=513",
                          f"store={self.location}")

    def test_dump_plugin(self):
        result = nbdkit("--dump-plugin", PLUGIN)
        for line in ("name=archipelago", "api_version=2",
                     "thread_model=parallel", "magic_config_key=volume"):
            self.assertIn(line, result.stdout.split("\n"))
        self.assertRegex(result.stdout,
                         r"(?m)^archipelago_library_version=\d+\.\d+\.\d+$")

    def test_help_and_manual_agree(self):
        text = nbdkit("--help", PLUGIN).stdout
        with open(os.environ["MANUAL"]) as file:
            manual = file.read()
        shown = re.findall(r"(?m)^\[?(\w+)=\]?[A-Z]+ ", text)
        described = re.findall(r"(?m)^=item \[?B<(\w+)=>\]?[A-Z]+$", manual)
        self.assertEqual(sorted(shown), ["create", "store", "volume"])
        self.assertEqual(sorted(shown), sorted(described))


class ReadOnly(NbdTest):
    def setUp(self):
        super().setUp()
        writer = self.serve("vol")
        handle = self.connect(writer)
        handle.pwrite(b"written", 0)
        handle.shutdown()
        writer.end()

    def test_option_r(self):
        server = self.serve("vol", options=["-r"])
        handle = self.connect(server, strict=False)
        self.assertTrue(handle.is_read_only())
        self.assertTrue(handle.can_multi_conn())
        self.assertEqual(handle.pread(7, 0), b"written")
        for call in (lambda: handle.pwrite(b"x", 0),
                     lambda: handle.zero(1, 0), lambda: handle.trim(4096, 0)):
            self.assert_fails("EPERM", call)
        self.assertEqual(self.state()[1], "free")

    def test_beside_a_writer(self):
        writer = self.connect(self.serve("vol"))
        reader = self.connect(self.serve("vol", options=["-r"]))
        self.assertEqual(self.state()[1], "held")
        self.assertEqual(reader.pread(7, 0), b"written")
        self.assertFalse(writer.is_read_only())


class Locking(NbdTest):
    def test_taken_by_first_freed_by_last(self):
        server = self.serve("vol")
        self.assertEqual(self.state()[1], "free")
        first, second = self.connect(server), self.connect(server)
        self.assertEqual(self.state()[1], "held")
        first.shutdown()
        self.assertEqual(self.state()[1], "held")
        second.shutdown()
        wait_for(lambda: self.state() == ["clean", "free"], "the lock")

    def test_second_server_is_refused(self):
        first, second = self.serve("vol"), self.serve("vol")
        holder = self.connect(first)
        self.assert_refused(second)
        self.assertIn("nbdkit", second.log())
        self.assertIn(str(first.process.pid), second.log())
        holder.shutdown()
        wait_for(lambda: self.state()[1] == "free", "the lock")
        self.assertEqual(self.connect(second).get_size(), SIZE)

    def test_held_by_another_program(self):
        server = self.serve("vol")
        other = subprocess.Popen([TOOL, "hold", self.location, "vol"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(other.wait)
        self.addCleanup(other.communicate)
        self.assertEqual(other.stdout.readline(), b"held\n")
        self.assert_refused(server)
        self.assertIn("the-other-one", server.log())
        self.assertIn(str(other.pid), server.log())
        other.communicate()
        self.assertEqual(self.connect(server).get_size(), SIZE)

    def test_many_short_connections(self):
        """Opening and closing never meet each other's lock."""
        server = self.serve("vol")
        for _ in range(20):
            handles = [self.connect(server) for _ in range(3)]
            for handle in handles:
                handle.shutdown()
        self.assertEqual(server.log(), "")

    def test_resize_is_seen_by_the_next(self):
        server = self.serve("vol")
        self.connect(server).shutdown()
        wait_for(lambda: self.state()[1] == "free", "the lock")
        self.tool("resize", self.location, "vol", SIZE + 512)
        handle = self.connect(server)
        self.assertEqual(handle.get_size(), SIZE + 512)
        handle.pwrite(b"end", SIZE + 509)
        self.assertEqual(handle.pread(3, SIZE + 509), b"end")


if __name__ == "__main__":
    main()
