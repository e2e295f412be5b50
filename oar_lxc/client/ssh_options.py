"""The options with which ssh reaches a container: of a command line or of ssh_config(5)."""

from __future__ import annotations


def ssh_options(key: str, known_hosts: str, alias: str, proxy: str) -> dict[str, str]:
    """Return all options for one container, with values as ssh_config(5) reads them.

    They leave nothing to the user's and the machine's own configuration, which may set other
    values for all hosts.

    Args:
        key: the file of the job's private key.
        known_hosts: the file of the container's public host key.
        alias: the container's name in that file.
        proxy: the shell command that passes bytes to the container's sshd.
    """
    return {
        "User": "root",
        "IdentityFile": _quoted(key),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": alias,
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        # All keys are ed25519. All versions of ssh know this older name of the second option.
        "HostKeyAlgorithms": "ssh-ed25519",
        "PubkeyAcceptedKeyTypes": "ssh-ed25519",
        "PubkeyAuthentication": "yes",
        "PreferredAuthentications": "publickey",
        "VerifyHostKeyDNS": "no",
        "AddKeysToAgent": "no",
        "ProxyUseFdpass": "no",
        "RemoteCommand": "none",
        "RequestTTY": "auto",
        "ProxyCommand": proxy.replace("%", "%%"),
    }


def _quoted(path: str) -> str:
    text = path.replace("%", "%%")
    return f'"{text}"' if " " in text else text
