"""A server that speaks as much of S3 as a job needs, objects in memory, with conditional put.

After Amazon's API reference: PutObject (If-None-Match), GetObject (Range), HeadObject,
DeleteObject, DeleteObjects, ListObjectsV2.
"""

import hashlib
import re
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


class S3Server(ThreadingHTTPServer):
    """Buckets of objects on the loopback.

    Attributes:
        objects: Bytes by bucket and key, ``bucket/key``.
        refuse: Status of all answers, 0 for none.
        puts: Status of every put, by key.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.lock, self.refuse, self.puts = {}, Lock(), 0, []
        self.thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def environment(self):
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}"}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        length = headers.pop("length", len(body))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, code):
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.answer(status, b"" if self.command == "HEAD" else body)

    def handle_request(self):
        parts = urlsplit(self.path)
        self.key, self.query = unquote(parts.path).strip("/"), parse_qs(parts.query, True)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "key/" not in self.headers.get("Authorization", ""):
            self.error(403, "AccessDenied")
        elif self.server.refuse:
            self.error(self.server.refuse, "InternalError")
        else:
            with self.server.lock:
                getattr(self, self.command.lower())()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_request  # noqa: N815

    def put(self):
        taken = self.headers.get("If-None-Match") == "*" and self.key in self.server.objects
        self.server.puts.append((self.key, 412 if taken else 200))
        if taken:
            self.error(412, "PreconditionFailed")
            return
        self.server.objects[self.key] = self.body
        self.answer(200, ETag=tag(self.body))

    def get(self):
        if "list-type" in self.query:
            self.list()
            return
        data = self.server.objects.get(self.key)
        if data is None:
            self.error(404, "NoSuchKey")
            return
        facts = {"ETag": tag(data), "Last_Modified": formatdate(time.time(), usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = (int(x) if x else None for x in wanted.groups())
            first = len(data) - last if first is None else first
            last = len(data) - 1 if last is None or wanted[1] == "" else min(last, len(data) - 1)
            facts["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            self.answer(206, data[first : last + 1], **facts)
        else:
            body = b"" if self.command == "HEAD" else data
            self.answer(200, body, length=len(data), **facts)

    head = get

    def delete(self):
        self.server.objects.pop(self.key, None)
        self.answer(204)

    def post(self):
        """Delete several objects."""
        keys = re.findall(rb"<Key>(.*?)</Key>", self.body)
        for key in keys:
            self.server.objects.pop(f"{self.key}/{key.decode()}", None)
        found = "".join(f"<Deleted><Key>{escape(key.decode())}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{found}</DeleteResult>".encode())

    def list(self):
        prefix, delimiter = (self.query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        entries, common = [], set()
        for path, data in sorted(self.server.objects.items()):
            bucket, _, key = path.partition("/")
            if bucket != self.key or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                common.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{tag(data)}"
                "</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        groups = "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in sorted(common)
        )
        body = f"<ListBucketResult><Name>{self.key}</Name><Prefix>{escape(prefix)}</Prefix>"
        body += f"<KeyCount>{len(entries)}</KeyCount><IsTruncated>false</IsTruncated>"
        self.answer(200, f"{body}{''.join(entries)}{groups}</ListBucketResult>".encode())


def tag(data):
    return f'"{hashlib.md5(data).hexdigest()}"'
