"""Chromium for the tests of pages."""

import json
import shutil
from urllib.parse import urlsplit

import pytest


class Browser:
    """Chromium without a window, and without access to other hosts."""

    def __init__(self, folder):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in (
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "disable-dev-shm-usage",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "window-size=1400,900",
            f"user-data-dir={folder}",
            "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ):
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options, service)
        self.driver.set_page_load_timeout(30)
        self.sent = set()

    def open(self, address, until):
        """Load a page, repeat a script until its result is true, and return the result."""
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.get("about:blank")  # else an address with another part after # would not be loaded again
        self.driver.get(address)
        return WebDriverWait(self.driver, 20).until(lambda driver: driver.execute_script(until), until)

    def complaints(self):
        """Return errors of scripts, failed requests, and requests to other hosts, since the last call."""
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            method, params = event["method"], event["params"]
            if method == "Network.loadingFailed" and params["requestId"] in self.sent:  # by a page, not at the start
                found.append(f"{params['type']}: {params['errorText']}")
            elif method == "Network.requestWillBeSent":
                self.sent.add(params["requestId"])
                address = urlsplit(params["request"]["url"])
                if address.scheme in ("http", "https") and address.hostname != "127.0.0.1":
                    found.append(f"another host: {address.geturl()}")
        return found


def opened(folder):
    """Return a Browser; skip where there is none."""
    pytest.importorskip("selenium")
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    return Browser(folder)
