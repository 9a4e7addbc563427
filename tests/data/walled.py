"""Functions that a child process runs in tests: what a damaged file can do to the process that reads it."""

import ctypes
import os
import sys
import time

from ideomotor.core.errors import UserError


def double(value):
    os.write(1, b"noise on standard output")
    os.write(2, b"noise on standard error")
    return [2 * value, os.getpid()]


def segfault():
    ctypes.string_at(0)


def leave():
    os._exit(3)


def sleep(seconds):
    time.sleep(seconds)


def take(size):
    return len(bytearray(size))


def refuse(text):
    raise UserError(text)


def break_down():
    raise ZeroDivisionError("boom")


def reply(size):
    return "x" * size


def nothing_to_send():
    return object()


def path():
    return sys.path[:1]
