"""Asks a worker in its own container for a sign of life (`python -m mesh.worker_probe KIND`), as a kubelet does often.

It knows nothing of other parts and imports next to nothing: started every two seconds, it would cost more than it asks.
"""

import http.client
import json
import sys
from typing import Final

PORT: Final = 8000  # Triton's own HTTP, which listens on loopback alone
PING: Final = {"request": "", "operation": "ping"}  # meshkit.wire's, in the JSON that Triton turns into a request
PATIENCE_S: Final = 4.0  # a big batch on a CPU is not yet a worker that is stuck


def ask(kind: str, port: int, patience_s: float) -> str | None:
    """Why it cannot serve; None if the thread that computes answered. kind: the model's name inside Triton."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience_s)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", f"/v2/models/{kind}/generate_stream", json.dumps(PING), headers)
        answer = connection.getresponse()
        words = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:  # nobody listens, or it takes too long
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    is_well = answer.status == 200 and '"response"' in words and '"error"' not in words
    return None if is_well else f"{answer.status}: {words}"


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1], PORT, PATIENCE_S))  # the kubelet shows the reason in the pod's events
