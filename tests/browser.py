"""A headless Chromium over its DevTools protocol, which needs no other package."""

import json
import os
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--no-first-run", "--hide-scrollbars"),
)


class Browser:
    """One page. It reads requests from file descriptor 3 and answers on 4."""

    def __init__(self, profile, width=1280, height=900):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # In the child the two ends are 3 and 4, whatever they are here.
        shell = ("bash", "-c", 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"', "bash")
        size = f"--window-size={width},{height}"
        command = (PATH, *FLAGS, f"--user-data-dir={profile}", size)
        self._process = subprocess.Popen(
            [*shell, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (theirs_in, theirs_out):
            os.close(end)
        self._out, self._in = ours_out, ours_in
        self._number, self._session, self._rest = 0, None, b""
        self.requests, self.complaints = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait()
        for end in (self._out, self._in):
            os.close(end)

    def send(self, method, **parameters):
        """The answer to a request; what happens meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._note(found.get("method"), found.get("params"))

    def _read(self):
        while b"\0" not in self._rest:
            more = os.read(self._in, 2**20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, method, found):
        if method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(found["exceptionDetails"])
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.complaints.append(found["entry"])

    def run(self, expression):
        """The value of some JavaScript, awaited."""
        found = self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression, seconds=30):
        """Waits until some JavaScript is true."""
        end = time.monotonic() + seconds
        while not self.run(f"!!({expression})"):
            assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
            time.sleep(0.05)

    def drag(self, selector, *points):
        """The mouse over points (x, y) of an element, from 0 to 1 each, button down."""
        corner = f"document.querySelector({selector!r})"
        box = self.run(
            f"(() => {{{corner}.scrollIntoView({{block: 'center'}});"
            f"const b = {corner}.getBoundingClientRect();"
            "return [b.x, b.y, b.width, b.height]})()"
        )
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]]):
            self.send(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0] + x * box[2],
                y=box[1] + y * box[3],
                button="left",
                buttons=int(kind != "mouseReleased"),
                clickCount=1,
            )
