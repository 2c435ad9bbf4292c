"""Starts the merchant service: its database, the keys it signs by, the threads that hash."""

from __future__ import annotations

from invochain.chassis import pools, secrets
from invochain.chassis.key_set import KeySet
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.chassis.process import Running
from invochain.chassis.settings import Settings
from invochain.chassis.tokens import Authenticator
from invochain.durable.operator_servicer import OperatorServicer
from invochain.durable.parking import parking_repairs
from invochain.merchant.passwords import Passwords
from invochain.merchant.servicer import MerchantServicer
from invochain.merchant.settings import MerchantSettings
from invochain.merchant.slow_down import SlowDown
from invochain.merchant.token_keys import TokenKeys


async def start(settings: Settings, own: MerchantSettings | None = None) -> Running:
    """Opens what the room needs and says how to close it. `own` replaces the room's settings of the environment.

    Raises SecretsUnusable when the secrets folder has no key to sign by, or is open to others.
    """
    own = own or MerchantSettings()
    made = secrets.load(settings.secrets_dir)
    keys = TokenKeys(made)
    passwords = Passwords(own)
    postgres = await Postgres.connect(settings.database_url("merchant"), name="merchant", size=settings.pool_size)
    await pools.insist(settings, "merchant", postgres, {"commands": 1, "reads": 1})
    await postgres.fill()
    servicer = MerchantServicer(postgres, passwords, SlowDown(own), keys)
    operators = OperatorServicer("merchant", postgres, Pages(made.page_token_key), parking_repairs(postgres))
    # Our own keys are verified by the same door as everybody's: fetched from ourselves.
    authenticator = Authenticator(made, KeySet(keys, every_s=0))
    return Running([servicer, operators], authenticator, [passwords.close, postgres.close])
