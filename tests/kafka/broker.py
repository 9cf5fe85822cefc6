"""A Kafka broker for the tests: one that is named, Apache Kafka itself, or the stand-in that PyPI has.

`KAFKA_BOOTSTRAP` names one that runs already, which no test may stop. Otherwise Apache Kafka is started on loopback,
with its jars from Maven Central, which stay in a folder of the user's cache. Where there is neither Java nor Maven, or
Maven Central is not reached, it is noida-db, which cannot do everything: what it cannot do is skipped, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any, Final, Protocol

from confluent_kafka.admin import AdminClient

VERSION: Final = "4.1.0"
START_S: Final = 60.0
STOP_S: Final = 30.0
FETCH_S: Final = 60.0
"""Less than a test may take: where it is slower this time, the stand-in is what runs."""

_POM: Final = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dressage</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""

_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
"""

_LOGGING: Final = """\
rootLogger.level=warn
rootLogger.appenderRefs=console
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %c{1} %m%n
"""


class Broker(Protocol):
    """One that runs. `described` says which; `evicts` whether a member that died loses its partitions to others, and
    `session_ms` the shortest session that it allows."""

    described: str
    evicts: bool
    can_restart: bool
    survives_kill: bool
    session_ms: int

    @property
    def bootstrap(self) -> str: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


class NamedBroker:
    """One that runs already, and is not ours."""

    evicts = True
    can_restart = False
    survives_kill = False
    session_ms = 6_000

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.described = f"the Kafka of KAFKA_BOOTSTRAP, {bootstrap}"

    def start(self) -> None:
        wait_until_ready(self.bootstrap)

    def stop(self) -> None: ...

    def kill(self) -> None:
        raise AssertionError("a broker that is not ours is not killed")


class _Child:
    """A broker that is a child process of ours."""

    can_restart = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, start_new_session=True)
        wait_until_ready(self.bootstrap, self._process)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # The whole group: what is started may be a script that starts the broker.
        os.killpg(process.pid, how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class ApacheKafka(_Child):
    """A node of Apache Kafka that is its own controller (KRaft)."""

    described = f"Apache Kafka {VERSION}"
    evicts = True
    survives_kill = True
    session_ms = 2_000

    def __init__(self, folder: Path, jars: Path) -> None:
        super().__init__(folder)
        self._jars = jars
        properties = folder / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        (folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        tool = self._java(
            "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(properties)
        )
        subprocess.run(tool, check=True, capture_output=True, timeout=START_S)

    def _properties(self) -> str:
        return _PROPERTIES.format(port=self.port, controller=free_port(), data=self.folder / "data")

    def _java(self, *arguments: str) -> list[str]:
        java = shutil.which("java") or "java"
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [java, *options, logging, "-cp", f"{self._jars}/*", *arguments]

    def _command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self.folder / "server.properties"))


class NoidaDb(_Child):
    """The stand-in: it evicts no member that died, and after a kill the last seconds are gone."""

    evicts = False
    survives_kill = False
    session_ms = 6_000

    def __init__(self, folder: Path, binary: str, reason: str) -> None:
        super().__init__(folder)
        self._binary = binary
        self.described = f"noida-db instead of Apache Kafka, since {reason}"

    def _command(self) -> list[str]:
        where = ["--kafka-port", str(self.port), "--data-dir", str(self.folder / "data")]
        return [self._binary, "start", "--only", "kafka", *where]


def start_broker(folder: Path) -> Broker | str:
    """One that runs; or why there is none."""
    named = os.environ.get("KAFKA_BOOTSTRAP")
    broker: Broker
    if named:
        broker = NamedBroker(named)
    else:
        jars = fetch_jars()
        if isinstance(jars, Path):
            broker = ApacheKafka(folder, jars)
        else:
            binary = shutil.which("noida-db", path=sysconfig.get_path("scripts")) or shutil.which("noida-db")
            if binary is None:
                return f"{jars}, and noida-db is not installed either; KAFKA_BOOTSTRAP may name a broker"
            broker = NoidaDb(folder, binary, jars)
    broker.start()
    return broker


def fetch_jars() -> Path | str:
    """The folder with the jars of Apache Kafka, fetched when it is first asked for; or why there is none."""
    if os.environ.get("KAFKA_TESTS") == "noida-db":
        return "KAFKA_TESTS says so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dressage-tests"
    jars = cache / f"kafka-{VERSION}"
    if shutil.which("java") is None:
        return "there is no Java"
    if (jars / "complete").exists():
        return jars
    if shutil.which("mvn") is None:
        return "there is no Maven"
    staging = cache / f"kafka-{VERSION}-{os.getpid()}"
    staging.mkdir(parents=True, exist_ok=True)
    try:
        (staging / "pom.xml").write_text(_POM, encoding="utf-8")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={staging}"]
        subprocess.run(
            ["mvn", "-q", "-B", *goal], cwd=staging, check=True, capture_output=True, timeout=FETCH_S
        )
        (staging / "complete").touch()
        with contextlib.suppress(OSError):  # another session was faster
            staging.rename(jars)
    except (OSError, subprocess.SubprocessError) as error:
        return f"Maven cannot fetch Apache Kafka ({type(error).__name__})"
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return jars


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(bootstrap: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Returns once the broker answers; fails when its process has ended, or after a minute."""
    deadline = time.monotonic() + START_S
    host, _, port = bootstrap.split(",")[0].rpartition(":")
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, "the broker has ended"
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            time.sleep(0.05)
            continue
        with contextlib.suppress(Exception):
            if AdminClient(quiet(bootstrap)).list_topics(timeout=5.0).brokers:
                return
    raise AssertionError(f"no Kafka answers at {bootstrap}")


def quiet(bootstrap: str, **more: Any) -> dict[str, Any]:
    """The configuration of a client that keeps to itself what it thinks of broken connections."""
    return {"bootstrap.servers": bootstrap, "log_level": 0, **more}
