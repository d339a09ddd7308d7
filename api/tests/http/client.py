"""A client written from the OpenAPI document alone: asks for every GET that takes no number, reads events, and drives a
VM through its life if a kernel is given. By `requests` where that is installed, else by the standard library; says
which."""

import json
import socket
import sys
import time

try:
    import requests
    from urllib3.connection import HTTPConnection
    from urllib3.connectionpool import HTTPConnectionPool
except ImportError:
    requests = None
    from http.client import HTTPConnection

PATH = sys.argv[1]


class Connection(HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(PATH)


if requests:

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class Adapter(requests.adapters.HTTPAdapter):
        pool = Pool("localhost")

        def get_connection_with_tls_context(self, *_, **__):
            return self.pool

    session = requests.Session()
    session.mount("http://", Adapter())

    def ask(method, path, body=None):
        response = session.request(method, "http://localhost" + path, json=body, timeout=60)
        is_json = "json" in response.headers.get("content-type", "")
        return response.status_code, response.json() if is_json else response.text

else:
    connection = Connection("localhost")

    def ask(method, path, body=None):
        headers = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        data = response.read()
        is_json = "json" in (response.getheader("content-type") or "")
        return response.status, json.loads(data) if is_json else data.decode()


def main():
    kernel = sys.argv[2] if len(sys.argv) > 2 else None
    status, document = ask("GET", "/v1/openapi.json")
    assert status == 200 and document["openapi"].startswith("3.1"), document
    operations = {
        operation["operationId"]: (method.upper(), where, operation)
        for where, item in document["paths"].items()
        for method, operation in item.items()
    }

    def call(name, body=None, **fields):
        method, where, operation = operations[name]
        query = "&".join(f"{k}={v}" for k, v in fields.items() if k != "id")
        where = where.format(id=fields.get("id")) + ("?" + query if query else "")
        status, answer = ask(method, where, body)
        assert str(status) in operation["responses"], (name, status, answer)
        return status, answer

    for name, (method, where, _) in operations.items():
        if method == "GET" and "{" not in where and name != "getEvents":
            call(name)
    assert call("getEvents", follow="false")[0] == 200
    if kernel:
        spec = {"kernel": kernel, "numa": [{"id": 0, "memory": "32M", "vcpus": [0]}], "serial": "none"}
        assert call("putVm", spec)[0] == 201
        assert call("bootVm")[0] == 202
        while call("getVm")[1]["state"] == "starting":
            time.sleep(0.01)
        assert call("pauseVm")[1]["state"] == "paused"
        assert call("resumeVm")[1]["state"] == "running"
        assert call("getVnode", id=0, fresh="true")[1]["residency"]["absent"] < 32 << 20
        assert call("getVnode", id=1)[1]["code"] == "no_such_vnode"
        assert call("putAffinity", {"cpus": 0}, id=0)[1]["affinity"] == "0"
        assert call("deleteVm")[0] == 204
    print("ok by", "requests" if requests else "http.client")


main()
