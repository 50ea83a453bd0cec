"""For locust: clients that ask for one small picture after another, each by a seed of its own, and check it."""

from __future__ import annotations

import random

from locust import FastHttpUser, constant, task


class Client(FastHttpUser):
    """Asks again as soon as it has its answer."""

    wait_time = constant(0)

    @task
    def picture(self) -> None:
        """One picture; anything but a whole PNG counts as a failure, a refusal too."""
        body = {"model": "digits-ddpm", "steps": 10, "seed": random.randrange(10**9)}
        with self.client.post("/v1/images", json=body, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif not answer.content.startswith(b"\x89PNG") or not answer.content.endswith(b"IEND\xaeB`\x82"):
                answer.failure("not a whole PNG file")
