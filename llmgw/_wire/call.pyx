"""The facts of one request, from its first byte to its log line.

Both lanes fill the upper half, `Gateway.serve` the lower; metrics, log and ledger only read.
A compiled class because building a Python object with thirty attributes costs as much as
reading the request from the socket.
"""


cdef class Call:
    def __cinit__(self):
        self.endpoint = self.query = self.method = ""
        self.content_type = self.accept = self.body = self.limit_lines = b""
        self.tenant_id = self.key_name = ""
        self.model_requested = self.model_used = self.provider_used = ""
        self.request_id = self.trail = ""
        self.cache = "bypass"
        self.ttft_ms = self.upstream_ms = -1.0
        self.cost_usd_micro = -1
