#!/usr/bin/env python3
"""Writes bytes.txt: for each message of fields.txt, bytes that set every field.

Knows protobuf's encoding and fields.txt, and nothing of this project's code. Of a
message with a oneof there are as many lines as that has fields. Values are made up
from the field's number: large or negative, so that a field of another width would
come back changed.

    python3 encode.py < fields.txt > bytes.txt
"""

import struct
import sys

messages, chosen, current = {}, [], None
theirs = True
for line in sys.stdin:
    words = line.split()
    if not words or words[0] == "#":
        continue
    if words == ["only", "for", "bytes"]:
        theirs = False
    elif words[0] == "message":
        current = messages.setdefault(words[1], [])
        if theirs:
            chosen.append(words[1])
    elif words[0] == "service":
        current = None
    elif words[0] != "reserved" and current is not None:
        oneof = None
        if "oneof" in words:
            oneof = words[-1]
            words = words[:-2]
        number, *type, name = words
        current.append((int(number), " ".join(type), name, oneof))


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, wire_type, payload):
    return varint(number << 3 | wire_type) + payload


def delimited(number, payload):
    return field(number, 2, varint(len(payload)) + payload)


def single(number, type, name):
    if type == "string":
        return delimited(number, name.encode())
    if type == "bytes":
        return delimited(number, b"\xff\x00" + name.encode())
    if type == "bool":
        return field(number, 0, varint(1))
    if type == "uint32":
        return field(number, 0, varint(0xFFFFFF00 + number))
    if type == "uint64":
        return field(number, 0, varint(0xFFFFFFFFFFFFFF00 + number))
    if type in ("int32", "int64"):
        return field(number, 0, varint(-1000 - number))
    if type == "double":
        return field(number, 1, struct.pack("<d", number + 0.125))
    if type.startswith("enum "):
        return field(number, 0, varint(1))
    # The first of each oneof, inside of others.
    return delimited(number, encode(type, {}))


def encode(message, choice):
    out, done = b"", set()
    for number, type, name, oneof in messages[message]:
        if oneof is not None:
            wanted = choice.get(oneof)
            if oneof in done or wanted not in (None, name):
                continue
            done.add(oneof)
        if type.startswith("map<"):
            _, value = type[4:-1].split(",")
            entry = single(1, "string", name + "_key") + single(2, value, name)
            out += delimited(number, entry)
        elif type.startswith("repeated "):
            for _ in range(2):
                out += single(number, type.removeprefix("repeated "), name)
        else:
            out += single(number, type, name)
    return out


for message in chosen:
    oneofs = [(oneof, name) for _, _, name, oneof in messages[message] if oneof]
    for choice in [{oneof: name} for oneof, name in oneofs] or [{}]:
        print(message, encode(message, choice).hex())
