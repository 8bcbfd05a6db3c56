"""`python -m workers.inference`: one inference worker."""

from __future__ import annotations

import os
import sys

# Before torch is loaded: its threads sleep while they wait for each other instead of spinning. Where others share the
# cores, a gated question then takes 5 to 12 s instead of 20 to 75 (2 cores, load 5). An operator's own value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from workers.inference.process import main

sys.exit(main())
