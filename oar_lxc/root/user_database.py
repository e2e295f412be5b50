"""Hide the user database from programs that would ask it without need.

nft looks up each user id as if it were a name. The database, a directory server or a name service
cache, may not answer. So nft runs in a mount namespace of its own, in which its files are empty.
"""

from __future__ import annotations

import ctypes

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_NOTHING = b"/dev/null"
# nsswitch.conf is hidden so that only passwd is asked. The others are sockets of cache daemons.
_PLACES = (
    *(b"/etc/passwd", b"/etc/nsswitch.conf"),
    *(b"/run/nscd/socket", b"/var/run/nscd/socket", b"/run/.nscd_socket"),
)
_libc = ctypes.CDLL(None, use_errno=True)


def hide_users() -> None:
    """Hide the user database from this process alone, if it may; makes only system calls."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        return
    if _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return  # else these mounts would appear in all namespaces
    for place in _PLACES:
        _libc.mount(_NOTHING, place, None, _MS_BIND, None)
