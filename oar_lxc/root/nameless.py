"""Programs that would ask a user database without need, run where there is none.

To nft, the number of a user may be a name. Whoever it asks, a directory server, a name service
cache, may not answer. So it gets a mount namespace of its own, in which all of that is empty.
"""

from __future__ import annotations

import ctypes

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_NOTHING = b"/dev/null"
# Without the second file, the first alone would be asked; the others are sockets of daemons.
_PLACES = (
    *(b"/etc/passwd", b"/etc/nsswitch.conf"),
    *(b"/run/nscd/socket", b"/var/run/nscd/socket", b"/run/.nscd_socket"),
)
_libc = ctypes.CDLL(None, use_errno=True)


def hide_users() -> None:
    """Hide the user database from this process alone, as far as it may; system calls only."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        return
    if _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return  # what is mounted would be mounted for all
    for place in _PLACES:
        _libc.mount(_NOTHING, place, None, _MS_BIND, None)
