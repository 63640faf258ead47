from xmlrpc.client import Transport

class SupervisorTransport(Transport):
    def __init__(
        self, username: str | None = None, password: str | None = None, serverurl: str | None = None
    ) -> None: ...
