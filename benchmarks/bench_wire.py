"""What share of the images of six cameras arrives in another process, and what it costs, by kind and DDS profile.

    source scripts/env.sh && python benchmarks/bench_wire.py --seconds 10

Raw: 1600 x 900 in bgr8, 10 a second and camera, 259 MB/s in all. Compressed: JPEGs of 300 kB, 30 a second and camera,
54 MB/s. Published best effort, as drivers do; received by rclpy as by the node, whose callback does nothing here. The profile
without its shared memory is what two machines have; what the kernel buffers then is net.core.rmem_max.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from letocc_ros.session import PROFILE_VARIABLES, make_room_for_images

PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"
PROFILES = ("none", "config/fastdds.xml", "the same by UDP alone")

KINDS = {"raw": (10.0, 1600 * 900 * 3), "compressed": (30.0, 300_000)}  # images a second and camera, bytes of each
CAMERAS = 6
SETTLE = 2.0  # s for the two processes to find each other


def message(kind: str):
    from sensor_msgs.msg import CompressedImage, Image

    size = KINDS[kind][1]
    data = os.urandom(size)
    if kind == "raw":
        image = Image(height=900, width=1600, encoding="bgr8", step=4800)
    else:
        image = CompressedImage(format="jpeg")
    image.data.frombytes(data)
    return image


def topic(camera: int) -> str:
    return f"/camera_{camera}/image"


def cpu() -> float:
    """Seconds of CPU that this process has had."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def send(kind: str, seconds: float) -> None:
    """Publish sets of images at their rate; prints how many images, and the cost."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data

    rclpy.init()
    node = rclpy.create_node("wire_sender")
    image, rate = message(kind), KINDS[kind][0]
    publishers = [node.create_publisher(type(image), topic(c), qos_profile_sensor_data) for c in range(CAMERAS)]
    deadline = time.monotonic() + 60
    while any(p.get_subscription_count() == 0 for p in publishers) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SETTLE)
    begin, spent, sent = time.monotonic(), cpu(), 0
    while time.monotonic() - begin < seconds:
        for publisher in publishers:
            publisher.publish(image)
            sent += 1
        time.sleep(max(0.0, (sent // CAMERAS) / rate - (time.monotonic() - begin)))
    print(sent, cpu() - spent, flush=True)


def receive(kind: str, seconds: float) -> None:
    """Count images until none has come for three seconds; prints how many, and the cost."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data

    rclpy.init()
    node, received, spent, last = rclpy.create_node("wire_receiver"), 0, 0.0, 0.0

    def take(_) -> None:
        nonlocal received, spent, last
        spent = spent or cpu()  # without the start, and without the first image
        received, last = received + 1, time.monotonic()

    for camera in range(CAMERAS):
        node.create_subscription(type(message(kind)), topic(camera), take, qos_profile_sensor_data)
    deadline = time.monotonic() + 60 + seconds
    while time.monotonic() < deadline and not (received and time.monotonic() - last > 3):
        rclpy.spin_once(node, timeout_sec=0.1)
    print(received, cpu() - spent, flush=True)


def without_shared_memory() -> str:
    """The profile, as between machines, on the loopback interface alone."""
    text = PROFILE.read_text()
    users, used = "<userTransports>", "<transport_id>shared_memory</transport_id>"
    before, _, after = text.partition(users)
    kind = "<type>UDPv4</type>"
    loopback = f"{kind}<interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>"
    return before.replace(kind, loopback) + users + after.replace(used, "", 1)


def measure(kind: str, profile: str, seconds: float) -> str:
    """One row of the table."""
    environment = os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    for name in PROFILE_VARIABLES:
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        if profile == PROFILES[2]:
            file = Path(folder) / "udp.xml"
            file.write_text(without_shared_memory())
            environment |= dict.fromkeys(PROFILE_VARIABLES, str(file))
            environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"  # LOCALHOST brings shared memory back
        own = ["--profile"] if profile == PROFILES[1] else []
        command = [sys.executable, __file__, "--kind", kind, "--seconds", str(seconds), *own, "--role"]
        processes = [
            subprocess.Popen([*command, role], env=environment, stdout=subprocess.PIPE, text=True)
            for role in ("receive", "send")
        ]
        received, sent = (process.communicate(timeout=seconds + 120)[0].split() for process in processes)
    wanted = KINDS[kind][0] * CAMERAS * seconds
    return (
        f"| {kind} | {profile} | {int(sent[0]) / wanted:.0%} | "
        f"{int(received[0]) / int(sent[0]):.1%} | {1e3 * float(sent[1]) / int(sent[0]):.2f} | "
        f"{1e3 * float(received[1]) / max(int(received[0]) - 1, 1):.2f} |"
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=10.0, help="of each row (default: 10)")
    p.add_argument("--kind", choices=KINDS, help="this kind alone")
    p.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--role", choices=("send", "receive"), help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.profile:
        make_room_for_images()
    if options.role:
        {"send": send, "receive": receive}[options.role](options.kind, options.seconds)
        return
    print(
        "| images | profile | published, of what was asked for | arrived, of these | CPU of the sender, ms an image | of the receiver |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for kind in [options.kind] if options.kind else KINDS:
        for profile in PROFILES:
            print(measure(kind, profile, options.seconds), flush=True)


if __name__ == "__main__":
    main()
