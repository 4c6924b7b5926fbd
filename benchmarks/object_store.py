"""How many requests and seconds does a bucket take for 1,000 parts, through boto3 and through pyarrow alone?

    python benchmarks/object_store.py [--parts 1000] [--threads 8] [--latency-ms 0 20]

The server is moto's on loopback, in this process, behind a proxy that counts requests and adds a latency to each: it shows the protocol, what is
asked for and how often, not S3's speed. Seconds without latency are those of moto and of Python, not of a network.
"""

import argparse
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from s3_server import Proxy, make_bucket, proxy_to, s3_server

from sweeper.storage import objects
from sweeper.storage.arrow_bucket import ArrowBucket
from sweeper.storage.boto_bucket import BotoBucket
from sweeper.storage.objects import ObjectStore


def measure(proxy: Proxy, what: str, work: Callable[[], object]) -> None:
    proxy.requests.clear()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    methods = ", ".join(f"{count} {method}" for method, count in Counter(method for method, _ in proxy.requests).most_common())
    print(f"  {what:<42} {seconds:7.2f} s  {len(proxy.requests):5} requests: {methods or 'none'}", flush=True)


def measure_store(proxy: Proxy, store: ObjectStore, names: Sequence[str], content: bytes, threads: ThreadPoolExecutor) -> None:
    measure(proxy, "prepare the root", store.prepare)
    measure(proxy, "create, in threads", lambda: list(threads.map(lambda name: store.create(name, content), names)))
    measure(proxy, "create 100 whose names are taken", lambda: [store.create(name, content) for name in names[:100]])
    measure(proxy, "list", lambda: store.files("parts"))
    measure(proxy, "see whether all are whole, after listing", lambda: [store.is_whole(name, len(content)) for name in names])
    measure(proxy, "read, in threads", lambda: list(threads.map(store.read, names)))
    measure(proxy, "read 100", lambda: [store.read(name) for name in names[:100]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0.0, 20.0])
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_EC2_METADATA_DISABLED": "true"}
    content = os.urandom(20_000)  # a part of a trial's scores
    names = [f"parts/scores/{number % 256:02x}/{number:05}.parquet" for number in range(options.parts)]
    with s3_server() as server, proxy_to(server) as proxy, ThreadPoolExecutor(options.threads) as threads:
        for client, latency in itertools.product((BotoBucket, ArrowBucket), options.latency_ms):
            objects._open = client
            bucket = f"{client.__name__.lower()}-{latency:g}ms"
            make_bucket(server, bucket)
            store = ObjectStore(f"s3://{bucket}/results?endpoint_override={proxy.url.removeprefix('http://')}&scheme=http")
            print(
                f"{client.__name__}, {options.parts} parts of {len(content)} bytes, {options.threads} threads, {latency:g} ms added to each request"
            )
            proxy.latency_seconds = latency / 1000
            measure_store(proxy, store, names, content, threads)


if __name__ == "__main__":
    main()
