"""The table of attacks."""

from tests.attack import http_attacks, socket_attacks

ATTACKS = (*http_attacks.ATTACKS, *socket_attacks.ATTACKS)
