"""Print, as a line of JSON at every change, which nodes of the cluster on this host are alive: {"time": Unix time, "alive": [address, …]}."""

import json
import logging
import time

import ray

ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
before = None
while True:
    alive = sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
    if alive != before:
        print(json.dumps({"time": time.time(), "alive": alive}), flush=True)
        before = alive
    time.sleep(0.2)
