"""Send events to corelane with nothing but a socket and cbor2 (`pip install cbor2`): python3 python.py HOST PORT"""

import socket
import struct
import sys
import time

import cbor2


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def receive_frame(stream) -> dict:
    header = stream.read(4)
    if len(header) < 4:
        sys.exit("the server closed the connection without an answer")
    return cbor2.loads(stream.read(*struct.unpack(">I", header)))


sent = 10
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    for number in range(sent):
        point = {"sensor": "temperature", "value": 20.5 + number}
        event = {"id": "python", "timestamp": time.time_ns(), "telemetry": [point]}
        connection.sendall(frame(cbor2.dumps(event)))
    connection.sendall(frame(b""))  # An empty frame asks how many events so far are committed.
    answer = receive_frame(connection.makefile("rb"))

print(answer)  # After a close by the server it also has the keys "error" and "code".
sys.exit(0 if answer["committed"] == sent and answer["rejected"] == 0 else 1)
