"""Jobs: work that runs in processes of its own, and the record of how it went.

==================  ===========================================================================
:mod:`.records`     one shape for every job: status, transitions with times, lineage; durable
:mod:`.series`      metrics by step, as they come
:mod:`.process`     a group of processes: its log, its signals, its end, what it may see
:mod:`.launcher`    the small program between the two, which outlives nobody
==================  ===========================================================================

Training, tuning and batch inference stand on it.
"""
