"""Apache Kafka with one more listener, which speaks TLS and asks for a user and a password (SCRAM-SHA-512).

The topics of tests are made, and their records written and read, by the listener that asks for nothing.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from tests.kafka.broker import ApacheKafka, free_port, quiet  # pyright: ignore[reportMissingImports]

STORE_PASSWORD: Final = "changeit"
TOOL_S: Final = 60.0
ITERATIONS: Final = 4_096

_PLAIN: Final = "PLAINTEXT://127.0.0.1:"
_MORE: Final = """\
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.ssl.keystore.type=PKCS12
listener.name.secure.ssl.keystore.location={store}
listener.name.secure.ssl.keystore.password={password}
listener.name.secure.ssl.key.password={password}
"""


class SecureKafka(ApacheKafka):  # pyright: ignore[reportUntypedBaseClass]
    """`ca` is what its certificate is signed with, `another_ca` one that has signed nothing of it."""

    def __init__(self, folder: Path, jars: Path) -> None:
        self.secure_port = free_port()
        self.ca = _authority(folder, "ca")
        self.another_ca = _authority(folder, "another-ca")
        self._store = _signed(folder, "ca")
        super().__init__(folder, jars)

    @property
    def secure_bootstrap(self) -> str:
        return f"localhost:{self.secure_port}"

    def _properties(self) -> str:
        listeners = f"listeners={_PLAIN}{self.port},"
        advertised = f"advertised.listeners={_PLAIN}{self.port}"
        protocols = "listener.security.protocol.map="
        text = super()._properties()
        text = text.replace(listeners, f"{listeners}SECURE://127.0.0.1:{self.secure_port},")
        text = text.replace(advertised, f"{advertised},SECURE://localhost:{self.secure_port}")
        text = text.replace(protocols, f"{protocols}SECURE:SASL_SSL,")
        return text + _MORE.format(store=self._store, password=STORE_PASSWORD)

    def let_in(self, user: str, password: str) -> None:
        """From now on this is the user's password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
        wanted = UserScramCredentialUpsertion(user, info, password.encode())
        admin = AdminClient(quiet(self.bootstrap))
        admin.alter_user_scram_credentials([wanted])[user].result(30)


def _authority(folder: Path, name: str) -> Path:
    """A certificate that may sign others, as a file that clients read; its key is in a store of this name."""
    constraints = ("-ext", "bc:c=ca:true", "-ext", "ku:c=keyCertSign,cRLSign")
    _key_pair(folder, name, *constraints)
    certificate = folder / f"{name}.pem"
    _keytool(folder, name, "-exportcert", "-rfc", "-alias", name, "-file", str(certificate))
    return certificate


def _signed(folder: Path, ca: str) -> Path:
    """A store with a key, and a certificate of it for `localhost` that `ca` has signed."""
    request, certificate = str(folder / "broker.csr"), str(folder / "broker.pem")
    _key_pair(folder, "broker")
    _keytool(folder, "broker", "-certreq", "-alias", "broker", "-file", request)
    names = ("-ext", "san=dns:localhost,ip:127.0.0.1")
    _keytool(
        folder, ca, "-gencert", "-rfc", "-alias", ca, "-infile", request, "-outfile", certificate, *names
    )
    for alias, file in ((ca, str(folder / f"{ca}.pem")), ("broker", certificate)):
        _keytool(folder, "broker", "-importcert", "-noprompt", "-alias", alias, "-file", file)
    return folder / "broker.p12"


def _key_pair(folder: Path, name: str, *more: str) -> None:
    kind = ("-keyalg", "EC", "-groupname", "secp256r1", "-validity", "3650", "-dname", f"CN={name}")
    _keytool(folder, name, "-genkeypair", "-alias", name, *kind, *more)


def _keytool(folder: Path, store: str, *arguments: str) -> None:
    """It comes with Java."""
    tool = shutil.which("keytool") or "keytool"
    where = ("-keystore", str(folder / f"{store}.p12"), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD)
    subprocess.run([tool, *arguments, *where], check=True, capture_output=True, timeout=TOOL_S)
