"""What users' columns are called, and what our schemas call it. Guesses only: a draft is read by its user.

Schema names that are not listed are found by their own name. Names are compared without case, blanks and signs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

WORDS: Mapping[str, str] = {
    "id": "id transaction_id trans_id tx_id txn_id trans_num transaction_number payment_id order_id event_id "
    "request_id uuid",
    "event_time": "event_time time timestamp datetime date created created_at ts at transaction_time "
    "transaction_date transaction_datetime trans_date_trans_time tx_datetime tx_time transaction_dt payment_time "
    "order_time purchase_time",
    "known_time": "known_time received_at ingested_at inserted_at loaded_at processed_at",
    "label": "label class target is_fraud fraud fraudulent fraud_flag fraud_label fraud_bool tx_fraud is_chargeback "
    "chargeback chargedback disputed is_disputed dispute",
    "label_time": "chargeback_date chargeback_time chargeback_at disputed_at dispute_date dispute_time reported_at "
    "report_date label_time label_date fraud_date fraud_reported_at confirmed_at",
    "taken": "taken decision action verdict outcome_of_rules rule_decision auth_result authorisation authorization "
    "approved",
    "amount": "amount amt amount_minor amount_cents amount_eur amount_usd tx_amount transaction_amt "
    "transaction_amount trans_amt payment_amount order_amount order_total total value price cents",
    "currency": "currency ccy currency_code cur tx_currency",
    "card": "card card_id card_token card_fingerprint card_number card_no cc_num cc pan card_hash card1 "
    "payment_method_id",
    "customer": "customer customer_id cust_id client client_id user user_id account account_id buyer_id shopper_id "
    "payer nameorig",
    "email": "email e_mail email_address mail customer_email billing_email",
    "ip": "ip ip_address ip_addr client_ip remote_ip remote_addr",
    "device": "device device_id device_fingerprint fingerprint device_hash deviceinfo browser_id",
    "merchant": "merchant merchant_id shop shop_id store store_id terminal terminal_id seller seller_id namedest",
    "channel": "channel entry_mode pos_entry_mode sales_channel",
    "mcc": "mcc merchant_category_code merchant_category category_code",
    "card_country": "card_country issuer_country bin_country card_issuer_country country_of_card",
    "ip_country": "ip_country geoip_country country_of_ip",
    "billing_country": "billing_country bill_country billing_address_country",
    "merchant_country": "merchant_country shop_country store_country",
    "cardholder": "cardholder cardholder_name card_holder name holder_name name_on_card",
}
"""Name in our schemas (or the role `label`, `label_time`) → what columns are called."""

ACTIONS: Mapping[str, str] = {
    "allow": "allow allowed approve approved accept accepted authorised authorized pass ok",
    "block": "block blocked decline declined deny denied reject rejected refuse refused",
    "review": "review manual manual_review reviewed refer referred hold",
    "step_up": "step_up challenge challenged 3ds sca otp",
}
"""Action of our schemas → what other systems call it."""

POSITIVE = ("1", "true", "yes", "y", "t", "fraud", "fraudulent", "chargeback", "positive", "1.0")
NEGATIVE = (
    "0",
    "false",
    "no",
    "n",
    "f",
    "legit",
    "genuine",
    "legitimate",
    "ok",
    "none",
    "negative",
    "0.0",
    "not_fraud",
)


def plain(name: str) -> str:
    """Returns a name without case, blanks and signs.

    >>> plain("Card-Number"), plain("isFraud")
    ('cardnumber', 'isfraud')
    """
    return re.sub(r"[\W_]+", "", name).lower()


def called(name: str) -> tuple[str, ...]:
    """Returns what columns of a schema name are called, the likeliest first."""
    return tuple(dict.fromkeys(plain(word) for word in (name, *WORDS.get(name, "").split())))


def match(name: str, columns: Iterable[str]) -> list[str]:
    """Returns the columns that are called like a schema name, the likeliest first.

    >>> match("amount", ["Card", "value", "Amount"])
    ['Amount', 'value']
    """
    words = called(name)
    found = [column for column in columns if plain(column) in words]
    return sorted(found, key=lambda column: words.index(plain(column)))


def action(text: str, actions: Iterable[str]) -> str:
    """Returns the action that another system's word means, or ""."""
    word = plain(text)
    for name in actions:
        if word == plain(name) or word in map(plain, ACTIONS.get(name, "").split()):
            return name
    return ""
