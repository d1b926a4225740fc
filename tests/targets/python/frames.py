"""Takes apart what one side of an HTTP/2 connection has sent, with Python's own readers of frames and header blocks.

    frames.py FILE    prints one JSON object for each frame, in order

What is no HTTP/2 ends it with an error.
"""

import hashlib
import json
import sys

from hpack import Decoder
from hyperframe.frame import ContinuationFrame, Frame, HeadersFrame

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
HEADER_BYTES = 9


def digest(data):
    return hashlib.sha256(data).hexdigest()


def main(path):
    with open(path, 'rb') as file:
        data = memoryview(file.read())
    at = len(PREFACE) if bytes(data[:len(PREFACE)]) == PREFACE else 0
    decoder = Decoder(max_header_list_size=1 << 24)
    block = b''
    while at < len(data):
        frame, length = Frame.parse_frame_header(data[at:at + HEADER_BYTES], strict=True)
        payload = data[at + HEADER_BYTES:at + HEADER_BYTES + length]
        if len(payload) != length:
            raise ValueError(f'the frame at {at} is cut')
        frame.parse_body(payload)
        told = {
            'at': at, 'type': type(frame).__name__, 'flags': sorted(frame.flags), 'stream': frame.stream_id,
            'length': length, 'payload': digest(payload), 'headers': None, 'table': None,
        }
        if isinstance(frame, (HeadersFrame, ContinuationFrame)):
            block += frame.data
            if 'END_HEADERS' in frame.flags:
                told['headers'] = [list(field) for field in decoder.decode(block)]
                # What the sender's next blocks refer to.
                told['table'] = digest(repr(list(decoder.header_table.dynamic_entries)).encode())
                block = b''
        print(json.dumps(told))
        at += HEADER_BYTES + length


main(sys.argv[1])
