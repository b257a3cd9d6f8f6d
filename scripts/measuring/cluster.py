"""Processes of Omma on loopback, and `omma bench` against them."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RELEASE = ROOT / "target/release"
WORK = ROOT / "target/measure"
OMMA = RELEASE / "omma"
# Longest wait for anything to start, to settle or to fall silent, in seconds.
START, SETTLE, SILENCE = 120, 4 * 3600, 1800


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(*words, check=True):
    """Runs a command; its output, parsed if it is JSON."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stderr}{done.stdout}")
    try:
        return json.loads(done.stdout)
    except ValueError:
        return done.stdout if done.returncode == 0 else None


class Server:
    """A shard node or a coordinator."""

    def __init__(self, name, kind, log, flags):
        self.name, self.kind, self.log = name, kind, log
        self.address, self.admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.flags, self.process = flags, None

    def start(self, more=()):
        words = [OMMA, self.kind, "--listen", self.address, "--admin-listen", self.admin, "--log", "warn"]
        with open(self.log, "ab") as log:
            words += [*self.flags, *more]
            self.process = subprocess.Popen([str(w) for w in words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class Cluster:
    """`nodes` shard nodes and a coordinator, with nothing in them yet. Used with `with`, so that it ends."""

    def __init__(self, nodes=1, groups=None, flags=()):
        self.nodes, self.groups, self.more = nodes, groups or nodes, list(flags)
        self.folder = WORK / f"data-{os.getpid()}"

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        library = run(OMMA, "runtime-library").strip()
        self.shards = []
        for i in range(self.nodes):
            flags = ["--data", self.folder / f"shard-{i}", "--groups", self.groups, "--replication", self.nodes]
            flags += ["--onnxruntime", library, "--device", "cpu"]
            self.shards.append(Server(f"shard-{i}", "shard", self.folder / f"shard-{i}.log", flags))
        peers = ",".join(shard.address for shard in self.shards)
        for shard in self.shards:
            shard.flags += ["--advertise", shard.address, "--peers", peers]
            shard.start(self.more)
        self.coordinator = Server("coordinator", "coordinator", self.folder / "coordinator.log", ["--shard-nodes", peers])
        self.coordinator.start()
        self.wait_ready()
        return self

    def __exit__(self, *_):
        for server in self.servers():
            server.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def servers(self):
        return [*self.shards, self.coordinator]

    def omma(self, *words, check=True):
        return run(OMMA, *words, "--json", "--endpoint", f"http://{self.coordinator.address}", check=check)

    def bench(self, *words):
        """The report of `omma bench`, with what all servers took."""
        return self.omma("bench", *words, "--admin", ",".join(server.admin for server in self.servers()))

    def wait(self, what, patience, done):
        begin = time.monotonic()
        while not done():
            for server in self.servers():
                if server.process and server.process.poll() is not None:
                    raise SystemExit(f"{server.name} ended while waiting until {what}:\n{server.log.read_text()[-3000:]}")
            if time.monotonic() - begin > patience:
                raise SystemExit(f"not {what} after {patience} s")
            time.sleep(0.2)

    def wait_ready(self):
        def ready():
            status = self.omma("status", "--timeout", "2s", check=False)
            groups = status["groups"] if status else []
            return len(groups) > self.groups and all(int(g["leader_node_id"] or 0) for g in groups)

        self.wait("ready", START, ready)

    def wait_silent(self):
        """Until graphs are audited and checkpoints written: nothing but heartbeats is left."""

        def silent():
            before = [cpu_seconds(server.process.pid) for server in self.servers()]
            time.sleep(2)
            after = [cpu_seconds(server.process.pid) for server in self.servers()]
            return sum(after) - sum(before) < 0.05 * 2 * len(before)

        self.wait("silent", SILENCE, silent)

    def restart(self, flags):
        """All shard nodes, with other flags and the same data."""
        for shard in self.shards:
            shard.kill()
        for shard in self.shards:
            shard.start(flags)
        self.wait_ready()
        self.wait_silent()

    def resident_bytes(self):
        def of(pid):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0]) * 1024

        return sum(of(server.process.pid) for server in self.servers())
