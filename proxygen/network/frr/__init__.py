"""Routes that FRR carries: what each host's FRR is to say, and how it is brought to say it.

`design` works out from the fabric who speaks to whom; `render` writes it in FRR's language or Quagga's; `sections`
knows which lines of a configuration are ours; `daemons` asks FRR and tells it; `apply` proves what it did; `backend` is
the fabric's.
"""
