"""`python -m tests.oversell [--takes 1000000] [--phones 50] [--seed 1]`: is more ever sold than there is?

Prints PASS with its figures, or FAIL with the promise that was broken and the line that replays it.
"""

import argparse
import sys
import time
import traceback

from tests.oversell.shop import Shop


def main() -> int:
    parser = argparse.ArgumentParser(description="Phones sell by leases; nothing may be sold twice, all must be sold.")
    parser.add_argument("--takes", type=int, default=1_000_000, help="accepted takes, each a change of its own")
    parser.add_argument("--phones", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began_s, cpu_s = time.monotonic(), time.process_time()
    shop = Shop(options.seed, options.phones, options.takes)
    replay = f"python -m tests.oversell --takes {options.takes} --phones {options.phones} --seed {options.seed}"
    try:
        shop.run()
    except Exception:
        traceback.print_exc()
        print(f"FAIL after {shop.counts['takes']:,} takes; replay: {replay}")
        return 1
    for name, count in sorted(shop.counts.items()):
        print(f"  {name:22} {count:>12,}")
    print(
        f"PASS seed={options.seed} phones={options.phones} takes={shop.counts['takes']} stock={sum(shop.stock)}"
        f" sold={sum(shop.stock)} books_checked={shop.counts['books']} crashes={shop.counts['crashes']}"
        f" seconds={time.monotonic() - began_s:.0f} cpu={time.process_time() - cpu_s:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
