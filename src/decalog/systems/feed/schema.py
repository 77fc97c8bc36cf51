"""What a feed is asked, what it knows of posts and people, and what people do with a slate.

A post's facts come as events before it can be shown. What happens on a slate is an outcome of its request and names the
post (`ref`); what happens elsewhere (a post opened from a link, another system's clicks) is an event of the same name.
"""

from __future__ import annotations

from decalog.schema import Entity, EventKind, Field, FieldKind, Label, OutcomeKind, Schema, Signal

SHOW = "show"
SURFACES = ("home", "explore", "session")
DEVICES = ("phone", "tablet", "desktop", "tv")
VERDICTS = ("clear", "limited", "sensitive", "removed")
"""What moderation may say of a post: `limited` is never spread beyond followers, `sensitive` not to minors."""
ACTIONS = ("click", "like", "reply", "share", "hide", "report")
"""What a person can do with a post, besides staying on it (dwell, in whole seconds)."""
DWELL = "dwell"
LONG_DWELL_S = 10
"""From so many seconds on, a post was read and not only opened."""
RETURN, SESSION = "return", "session_end"
MOST_SLOTS = 100

_USER = Entity(name="user", meaning="Who reads.")
_POST = Entity(name="post", meaning="The post.", privacy="public")
_AUTHOR = Entity(name="author", meaning="Who wrote it.", privacy="public")
_TOPIC = Entity(name="topic", meaning="What it is about: one of your own topics.", privacy="public")
_LANGUAGE = Field(name="language", kind="text", meaning="ISO 639-1 code.", max_length=8)
_REGION = Field(name="region", kind="text", meaning="Region: a country or market of yours.", max_length=16)
_ADULT = Field(name="is_adult", kind="flag", meaning="The reader may see mature posts.")
_ON = Field(name="on", kind="flag", meaning="false takes it back.")
_REFS = 4_000

FEED_REQUEST = EventKind(
    name="feed_request",
    meaning="A reader opens the feed and asks for a slate.",
    subject=("user",),
    entities=(_USER,),
    fields=(
        Field(name="size", kind="int", meaning="How many posts to show.", least=1, most=MOST_SLOTS),
        Field(name="surface", kind="text", meaning="Where the slate is shown.", choices=SURFACES),
        Field(name="device", kind="text", meaning="What it is read on.", choices=DEVICES),
        _REGION,
        _LANGUAGE,
        _ADULT,
        Field(name="only_topic", kind="text", meaning="Posts of this topic only.", max_length=128),
        Field(
            name="recent",
            kind="text",
            meaning="Posts read in this session, oldest first, spaces between.",
            max_length=_REFS,
        ),
    ),
)

POST = EventKind(
    name="post",
    meaning="A post appears. Correct it to edit it, delete it to withdraw it.",
    subject=("author",),
    entities=(_POST, _AUTHOR, _TOPIC),
    fields=(
        _LANGUAGE,
        Field(
            name="regions",
            kind="text",
            meaning="Regions it may be shown in, spaces between; none: everywhere.",
            max_length=512,
        ),
        Field(name="is_mature", kind="flag", meaning="For adults only."),
        Field(name="labels", kind="text", meaning="Further labels of yours, spaces between.", max_length=512),
        Field(name="title", kind="text", meaning="What a list of posts shows of it.", max_length=512),
    ),
)

MODERATION = EventKind(
    name="moderation",
    meaning="Moderation's verdict on a post; the last one holds.",
    subject=(),
    entities=(_POST,),
    fields=(
        Field(name="verdict", kind="text", meaning="What may be done with it.", choices=VERDICTS, required=True),
        Field(name="why", kind="text", meaning="The rule that it broke, in a word.", max_length=64),
    ),
)

PROFILE = EventKind(
    name="profile",
    meaning="What a reader says of themselves; the last one holds.",
    subject=("user",),
    entities=(_USER,),
    fields=(
        _REGION,
        _LANGUAGE,
        _ADULT,
        Field(name="interests", kind="text", meaning="Topics they chose, spaces between.", max_length=1_024),
        Field(
            name="comment",
            kind="text",
            meaning="A note on them; nothing is decided by it.",
            privacy="personal",
            max_length=512,
        ),
    ),
)


def _tie(name: str, meaning: str) -> EventKind:
    """Returns the event of a reader's lasting choice about an author or a topic."""
    return EventKind(name=name, meaning=meaning, subject=("user",), entities=(_USER, _AUTHOR, _TOPIC), fields=(_ON,))


def _elsewhere(action: str) -> EventKind:
    """Returns the event of something done with a post outside a slate of ours."""
    return EventKind(
        name=action,
        meaning=f"{action} of a post, outside a slate of ours.",
        subject=("user",),
        entities=(_USER, _POST, _AUTHOR, _TOPIC),
        fields=(
            Field(name="value", kind="float", meaning="1; seconds for dwell; 0 takes it back.", least=0, required=True),
        ),
    )


def _outcome(action: str, meaning: str) -> OutcomeKind:
    return OutcomeKind(name=action, meaning=meaning, sources=("app",), labels={1: 1} if action == "click" else {})


def _fact(name: str, kind: FieldKind, meaning: str) -> Field:
    return Field(name=name, kind=kind, meaning=meaning)


CANDIDATE = (
    _fact("author", "text", "Who wrote it, by the caller's name."),
    _fact("topic", "text", "What it is about, by the caller's name."),
    _fact("post_language", "text", "ISO 639-1 code of the post; `language` is the reader's."),
    _fact("integrity", "text", "Moderation's verdict, empty where it is clear."),
    _fact("reader_is_adult", "flag", "Of a sensitive post: the reader is known to be one, maybe from the profile."),
    _fact("labels", "text", "Further labels, spaces between."),
    _fact("age_s", "int", "Seconds since it appeared."),
    _fact("in_network", "flag", "The reader follows its author."),
    _fact("interest", "flag", "Its topic is one that the reader follows or chose, where they did."),
    _fact("leaning", "float", "Its topic's share of what the authors wrote last whom the reader follows."),
    _fact("liking", "float", "How much more than usual the reader is believed to take up of its topic, a logarithm."),
    _fact("readable", "flag", "The reader reads its language, as far as is known."),
    _fact("looked_at", "flag", "The reader is taken to have looked at it before."),
    _fact("author_followers", "int", "Readers who follow its author."),
    _fact("author_age_s", "int", "Seconds since its author's first post."),
    _fact("author_posts", "int", "Posts of its author."),
    _fact("two_tower", "float", "Cosine of the reader's and the post's directions, and the post's popularity."),
    _fact("neighbours", "float", "Score of collaborative filtering."),
    _fact("similar", "float", "Cosine with what was read last."),
    _fact("sketch", "int", "Signs of the post's direction, a bit each."),
    _fact("explored", "flag", "Its slot drew it, where it was shown."),
    *(
        _fact(f"{retriever}_rank", "int", f"Its place from 1 on in what `{retriever}` found.")
        for retriever in ("popular", "fresh", "following")
    ),
)
"""Facts of a candidate; absent where there is no model, or where the retriever did not find it."""

SCHEMA = Schema(
    system="feed",
    noun="feed_request",
    request=FEED_REQUEST,
    events=(
        POST,
        MODERATION,
        PROFILE,
        _tie("follow", "A reader follows an author or a topic."),
        _tie("block", "A reader never wants to see an author again."),
        _tie("mute", "A reader wants to see nothing of an author or a topic for now."),
        *(_elsewhere(action) for action in (*ACTIONS, DWELL)),
    ),
    outcomes=(
        *(
            _outcome(action, f"{action} of a shown post (`ref`): 1, or 0 where it was taken back.")
            for action in ACTIONS
        ),
        _outcome(DWELL, "Seconds on a shown post (`ref`)."),
        _outcome(RETURN, "Whether the reader came back the next day: 1 or 0."),
        _outcome(SESSION, "Seconds that the session lasted which began with the slate."),
    ),
    actions=(SHOW,),
    label=Label(name="click", meaning="A shown post was opened.", maturity="1h", observed_after=(SHOW,)),
    slate_of="post",
    signals=(
        Signal(head="p_click", kind="click"),
        Signal(head="p_dwell", kind=DWELL, least=LONG_DWELL_S),
        Signal(head="p_like", kind="like", maturity="1d"),
        Signal(head="p_reply", kind="reply", maturity="1d"),
        Signal(head="p_share", kind="share", maturity="1d"),
        Signal(head="p_hide", kind="hide", maturity="1d"),
        Signal(head="p_report", kind="report", maturity="1d"),
    ),
    candidate=CANDIDATE,
)
