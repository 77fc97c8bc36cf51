"""Ask decalog with Stripe's own library: four payments, a review, a dispute, and a webhook that the library verifies.

    pip install stripe
    python examples/fraud_stripe.py

It makes a home with a little simulated history, serves it, and uses the library with our address and our token.
"""

from __future__ import annotations

import http.server
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import stripe

from decalog.admin import create_token
from decalog.home import Home
from decalog.operations import train_on_world

RECEIVED: queue.Queue[tuple[bytes, str]] = queue.Queue()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Your own server, which gets the webhooks."""

    def do_POST(self) -> None:
        """Keeps the body and its signature."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        RECEIVED.put((body, self.headers["Stripe-Signature"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def shop(client: stripe.StripeClient, receiver: str) -> None:
    """Does what a shop's code does with Stripe."""
    endpoint = client.v1.webhook_endpoints.create({"url": receiver, "enabled_events": ["*"]})
    for number, (amount, country) in enumerate(((1_900, "DE"), (9_900, "DE"), (24_900, "US"), (180_000, "US"))):
        payment = {"amount": amount, "currency": "eur", "payment_method": f"pm_{number}", "confirm": True}
        device = {"ip": f"192.0.2.{number}", "ip_country": country, "device": f"device-{number}"}
        known = {"card_country": "DE", "billing_country": "DE", "merchant_country": "DE", "mcc": "5411"}
        try:
            made = client.v1.payment_intents.create(
                {**payment, "metadata": {**device, **known}, "expand": ["latest_charge"]}
            )
        except stripe.CardError as refused:
            outcome = refused.error.payment_intent.latest_charge.outcome
            print(f"{amount:>7}  {refused.code:16} risk score {outcome.risk_score}: {outcome.seller_message}")
        else:
            outcome = made.latest_charge.outcome
            print(f"{amount:>7}  {made.status:16} risk score {outcome.risk_score}: {outcome.seller_message}")
    for review in client.v1.reviews.list():
        client.v1.reviews.approve(review.id)
    latest = client.v1.payment_intents.list({"limit": 1}).data[0]
    client.raw_request("post", "/v1/disputes", payment_intent=latest.id)
    while True:
        body, signature = RECEIVED.get(timeout=30)
        event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
        print(f"webhook {event.type} about {event.data.object.id}")
        if event.type == "charge.dispute.created":
            return


def main() -> None:
    """Makes a home, serves it, and shops there."""
    with tempfile.TemporaryDirectory() as folder, http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        home = Home(Path(folder) / "home")
        train_on_world(home, "fraud", days=180, seed=7, scale=0.1)
        token = create_token(home, ["decide", "outcomes", "admin"], systems=(), note="example", lifetime="")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-m", "decalog", "serve", "fraud", "--home", str(home.root), "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serving:  # noqa: S603 - our own
            assert serving.stderr is not None  # noqa: S101 - it is a pipe
            url = next(line.split()[-1] for line in serving.stderr if line.startswith("listening"))
            client = stripe.StripeClient(token, base_addresses={"api": url})
            try:
                shop(client, f"http://127.0.0.1:{server.server_port}/")
            finally:
                serving.terminate()


if __name__ == "__main__":
    main()
