"""A small feed through the library: posts, readers, what another system showed; then slates of our own, and why."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from decalog.clock import HOUR, ManualClock, time_us
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.ingest import Ingest
from decalog.operations import train_on_log
from decalog.systems.feed.why import why_folded

TOPICS = ("jazz", "chess", "baking", "trains")


def write_history(ingest: Ingest, clock: ManualClock, draw: random.Random) -> None:
    """Tells of new posts, and of slates that another system showed: readers open what is on their own topic."""
    posts: list[tuple[str, str]] = []
    for reader in range(40):
        says = {"kind": "profile", "interests": TOPICS[reader % 4], "region": "AT", "language": "en"}
        ingest.event({"id": f"profile-{reader}", "user": f"reader-{reader}", **says})
    for hour in range(8 * 24):
        clock.advance(HOUR)
        for post in (f"post-{hour}-a", f"post-{hour}-b"):
            topic = draw.choice(TOPICS)
            of = {"author": f"{topic}-writer-{draw.randrange(5)}", "topic": topic, "language": "en"}
            ingest.event({"id": f"new-{post}", "kind": "post", "post": post, **of})
            posts.append((post, topic))
        for number in range(6):
            asked, reader = f"old-{hour}-{number}", draw.randrange(40)
            shown = draw.sample(posts[-60:], min(8, len(posts)))
            slate = {"taken": "show", "slots": [post for post, _ in shown], "size": 8}
            ingest.event({"id": asked, "kind": "feed_request", "user": f"reader-{reader}", **slate})
            for place, (post, topic) in enumerate(shown):
                if draw.random() < (0.6 if topic == TOPICS[reader % 4] else 0.05) / (1 + 0.1 * place):
                    for kind, value in (("click", 1), ("dwell", draw.randrange(60))):
                        did = {"feed_request": asked, "source": "app", "ref": post, "value": value}
                        ingest.outcome({"id": f"{kind}-{asked}-{place}", "kind": kind, **did})


def main(folder: Path) -> None:
    """Imports, trains, asks, likes, asks again, mutes, and asks why."""
    home, clock = Home(folder), ManualClock(time_us("2026-01-05T08:00:00Z"))
    log = home.writer(clock)
    write_history(Deployment(home, "feed", log).prepare(), clock, random.Random(7))  # noqa: S311 - nobody's clicks
    log.commit()
    print(train_on_log(home, "feed", seed=1).text())
    service = Deployment(home, "feed", log).service()
    asked = {"user": "ada", "size": 12, "region": "AT", "language": "en"}

    # Ada is new. She opens and likes what is about chess, and the next slate knows.
    for id_ in ("ask-1", "ask-2"):
        _, decision, _ = service.decide({"id": id_, **asked})
        posts = {candidate.ref: candidate for candidate in decision.candidates}
        topics = {slot.ref: posts[slot.ref].attributes["topic"] for slot in decision.choice.slots}
        print(f"{id_}: {list(topics.values()).count('chess')} about chess; {decision.choice.reasons[0]}")
        for post in (post for post, topic in topics.items() if topic == "chess"):
            for kind in ("click", "like"):
                did = {"feed_request": id_, "source": "app", "ref": post, "value": 1}
                service.ingest.outcome({"id": f"{kind}-{id_}-{post}", "kind": kind, **did})

    # She mutes a topic. What was ruled out is in the record, and "why" names each stage of a post's way.
    service.ingest.event({"id": "mute-1", "kind": "mute", "user": "ada", "topic": "baking"})
    _, decision, _ = service.decide({"id": "ask-3", **asked})
    muted = next(candidate.ref for candidate in decision.candidates if candidate.dropped == "muted")
    log.commit()
    for post in (decision.choice.slots[0].ref, muted):
        print(why_folded(log, request="ask-3", post=post).text())
    log.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
