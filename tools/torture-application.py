#!/usr/bin/env python3
"""The application of tools/torture: records each execution, and names it in its response.

    torture-application.py SOCKET HISTORY

A request for /LOCATION/KEY?plan=WORDS&delay=SECONDS&size=BYTES is the Nth execution of KEY, and goes by
the Nth of the WORDS (the last one serves for the rest):

    created     201, to be kept                 refused     400, to be kept
    retriable   503, not acted on               released    201, with the word `release`
    no-store    201, with the word `no-store`   large       201, larger than what nginx keeps
    before      closes before a response        within      closes during its response
"""

import asyncio
import json
import signal
import sys
import time
import urllib.parse

LARGE = 40000       # over idempotency_max_body

KINDS = {'created': 'kept', 'refused': 'kept', 'retriable': 'free', 'released': 'free',
         'no-store': 'not_kept', 'large': 'large', 'before': 'broken', 'within': 'broken'}
STATUSES = {'refused': '400 Bad Request', 'retriable': '503 Service Unavailable'}
WORDS = {'released': 'release', 'no-store': 'no-store'}


def answer_body(key, number, size):
    """The body of the response of an execution: each is different."""
    mark = '%s execution %d\n' % (key, number)
    return (mark * (size // len(mark) + 1))[:max(size, len(mark))].encode()


class Application:
    def __init__(self, history):
        self.history = history
        self.executions = {}

    def write(self, **event):
        self.history.write(json.dumps(event) + '\n')

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b'\r\n\r\n')).decode('latin-1')
            headers = dict(line.lower().split(': ', 1) for line in head.split('\r\n')[1:-2])
            await reader.readexactly(int(headers.get('content-length', 0)))
            await self.execute(head.split(' ', 2)[1], headers, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass    # nginx is gone: what was done is done
        finally:
            writer.close()

    async def execute(self, uri, headers, writer):
        path, _, query = uri.partition('?')
        key = path.rsplit('/', 1)[1]
        arguments = dict(urllib.parse.parse_qsl(query))
        number = self.executions[key] = self.executions.get(key, 0) + 1
        plan = arguments['plan'].split(',')
        word = plan[min(number, len(plan)) - 1]

        self.write(event='start', key=key, number=number, at=time.monotonic(),
                   worker=int(headers['x-worker']), token=headers['idempotency-token'], kind=KINDS[word])
        await asyncio.sleep(float(arguments['delay']))
        self.write(event='end', key=key, number=number, at=time.monotonic())

        if word != 'before':
            size = LARGE if word == 'large' else int(arguments['size'])
            await self.answer(writer, word, number, answer_body(key, number, size), 'chunked' in arguments)

    @staticmethod
    async def answer(writer, word, number, body, chunked):
        fields = ['HTTP/1.1 ' + STATUSES.get(word, '201 Created'), 'Connection: close',
                  'Content-Type: text/plain', 'X-Execution: %d' % number]
        if word in WORDS:
            fields.append('X-Accel-Idempotency: ' + WORDS[word])
        fields.append('Transfer-Encoding: chunked' if chunked else 'Content-Length: %d' % len(body))
        data = b'%x\r\n%s\r\n0\r\n\r\n' % (len(body), body) if chunked else body
        if word == 'within':
            data = data[:len(data) // 2]
        writer.write('\r\n'.join(fields + ['', '']).encode() + data)
        await writer.drain()


async def main():
    with open(sys.argv[2], 'w', buffering=1, encoding='utf-8') as history:
        await asyncio.start_unix_server(Application(history).serve, sys.argv[1], backlog=512)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        print('ready', flush=True)
        await stopped.wait()


if __name__ == '__main__':
    asyncio.run(main())
