"""Drain a listening socket: closing it resets the connections that the system has accepted and no process has."""

import contextlib
import ctypes
import socket
import sys

# Linux's SO_ATTACH_FILTER, which Python's socket module does not name.
_ATTACH_FILTER = 26
# A program for Linux's packet filter, (code, jump if true, jump if false, operand) for each instruction: load the flags
# of the TCP header, keep SYN and ACK, drop the packet if only SYN is set, else keep all of it.
_DROP_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort),
        ("true", ctypes.c_ubyte),
        ("false", ctypes.c_ubyte),
        ("operand", ctypes.c_uint),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction))]


def take_no_more_connections(listener):
    """Let the system ignore new connection requests (Linux), in all processes that share the listening socket.

    What it has accepted can still be accepted here. A client repeats its request after a second, and is refused then
    if the socket has been closed, or accepted by the server that follows.
    """
    if sys.platform != "linux":
        return
    instructions = (_Instruction * len(_DROP_SYN))(*_DROP_SYN)
    program = _Program(len(_DROP_SYN), instructions)
    with contextlib.suppress(OSError):  # a container may forbid it
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, bytes(program))
