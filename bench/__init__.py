"""Benchmarks: each module asks one question and answers it beside its peers, in one run.

::

    python -m bench                                   what there is
    python -m bench online_get --size small           a look, on any machine
    python -m bench online_get --size full            the figures that count, on a quiet machine
    python -m bench all --size full --feast-venv DIR --ray-venv DIR --chdb-venv DIR
                                                      everything; makes DIR if it is not there

How a figure comes about::

    case ──► steps            data and stores made once, kept under --scratch
      │
      └────► rounds ─► side ─► side ─► side      each in a process of its own, one after the other
                        │
                        └─► compile │ warm up │ measure │ hash of what was read

* **The same question for all.**  Every side answers from the same rows; the hash of its answer
  must be that of the others, or no ratio is printed.
* **Ratios of CPU time**, user and system, of all threads and children: on a shared machine the
  wall says who else was there.  The wall counts where a disk or a latency is meant, and then the
  sides alternate, five times each.
* **The peer gets the benefit of the doubt.**  It is given bytes where we give a dict, a sorted
  table where we sort, the client's CPU where a server works beside it; what it is spared is said
  at its side.
* **A peer that is not installed is left out, and said so.**

Every result is one line of JSON in ``results.jsonl`` under the scratch folder.  The tests run all
of it in its tiny size, where the figures mean nothing and the hashes everything.
"""
