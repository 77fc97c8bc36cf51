"""What a payment looks like, who may say that it was a fraud, and when silence means that it was not."""

from __future__ import annotations

from decalog.schema import Entity, EventKind, Field, Label, OutcomeKind, Schema

CHANNELS = ("ecom", "moto", "pos")

PAYMENT = EventKind(
    name="payment",
    meaning="A card payment that asks for authorisation.",
    subject=("customer", "card", "email", "device", "ip"),
    entities=(
        Entity(name="card", meaning="Token or fingerprint of the card; never the number itself."),
        Entity(name="customer", meaning="The merchant's account of the payer."),
        Entity(name="device", meaning="Fingerprint of the device.", max_length=256),
        Entity(name="ip", meaning="IP address of the payer."),
        Entity(name="email", meaning="Address given at checkout.", max_length=254),
        Entity(name="merchant", meaning="Who is paid.", privacy="public"),
    ),
    fields=(
        Field(name="amount_minor", kind="amount_minor", meaning="Amount in the currency's minor units.", required=True),
        Field(name="currency", kind="currency", meaning="ISO 4217 code of the amount.", required=True),
        Field(name="channel", kind="text", meaning="Online, by mail or phone, or at a terminal.", choices=CHANNELS),
        Field(name="mcc", kind="text", meaning="Merchant category code, ISO 18245.", max_length=4),
        Field(name="card_country", kind="text", meaning="Issuer's country, ISO 3166-1 alpha-2.", max_length=2),
        Field(name="ip_country", kind="text", meaning="Country of the IP address.", max_length=2),
        Field(name="billing_country", kind="text", meaning="Country of the billing address.", max_length=2),
        Field(name="merchant_country", kind="text", meaning="Country of the merchant.", max_length=2),
        Field(name="cardholder", kind="text", meaning="Name on the card.", privacy="personal", max_length=256),
    ),
)

SCHEMA = Schema(
    system="fraud",
    noun="payment",
    request=PAYMENT,
    events=(),
    # No kind outranks another: of what was said of a payment the last to happen holds. An analyst who let a fraud go is
    # put right by the warning or chargeback that follows, and a chargeback by the verdict of who looked into it.
    outcomes=(
        OutcomeKind(
            name="authentication",
            meaning="How a step-up ended: 1 the payer passed, 0 the payer failed or gave up.",
            sources=("acs",),
            labels={},
        ),
        OutcomeKind(
            name="review_claim",
            meaning="An analyst takes a payment on for so many minutes; 0 gives it back.",
            sources=("analyst",),
            labels={},
            fields=(Field(name="by", kind="text", meaning="Which analyst: an id of yours that names nobody."),),
        ),
        OutcomeKind(
            name="fraud_warning",
            meaning="The network's early fraud warning (TC40, SAFE): the issuer says fraud, days before a chargeback.",
            sources=("network",),
            labels={1: 1},
        ),
        OutcomeKind(
            name="chargeback",
            meaning="The cardholder disputed the payment as a fraud; value 0 where the dispute was won back.",
            sources=("issuer", "network"),
            labels={1: 1, 0: 0},
        ),
        OutcomeKind(
            name="analyst_verdict",
            meaning="A person looked: 1 fraud, 0 genuine.",
            sources=("analyst",),
            labels={1: 1, 0: 0},
            fields=(Field(name="by", kind="text", meaning="Which analyst: an id of yours that names nobody."),),
        ),
    ),
    actions=("review", "allow", "step_up", "block"),
    label=Label(
        name="fraud",
        meaning="The payment was a fraud against the cardholder.",
        maturity="60d",
        observed_after=("allow",),
        observed_by={"step_up": "authentication"},
    ),
)
