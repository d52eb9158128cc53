"""boto3 and the SageMaker SDKs, unmodified: Feature Store's API in front of a store.

::

    boto3.client("sagemaker-featurestore-runtime")       boto3.client("sagemaker")
                     │  rest-json                                │  JSON 1.1
                     └──────────────► surface ◄──────────────────┘
                                        │    signature: SigV4 ─► the Door's callers and roles
                     ┌──────────────────┴──────────────────┐
                  runtime                               control ─ search ─ pages
                     └────► groups, definitions, values ◄──┘
                                     │   names, texts, definitions: the only translation
                     FeatureStore, reader, groups: which know no word of this

It listens on the server's own port, beside ``/v1``; point ``endpoint_url``, or
``AWS_ENDPOINT_URL``, at it.  A group made here is an ordinary one for ``fs.open``, SQL and joins;
one made there is served here.

**Supported.**  Runtime: PutRecord, GetRecord, DeleteRecord, UpdateRecord, ListRecords,
BatchGetRecord, BatchWriteRecord.  Control: Create-, Describe-, Update-, Delete- and
ListFeatureGroups, Describe- and UpdateFeatureMetadata, Search over FeatureGroup and
FeatureMetadata, AddTags, ListTags, DeleteTags.  Every other operation of ``sagemaker`` is
answered with UnknownOperationException.

**Where AWS is silent, or we differ on purpose**

=====================  ============================================================================
equal event times      the later accepted put wins, online and in history (AWS's text says the
                       first does, its dedup of the offline store says the last)
after a hard delete    a fence stays: a put older than the delete stays late.  AWS forgets, and
                       would serve it.  A hard delete *at* the record's event time is done
finer than 1 µs        event times are compared in microseconds; all nine digits come back
year 0000              refused: years are 1 to 9999
expiry                 at read time, to the microsecond, in joins too; no marker row is written to
                       history, where ``expires_at`` says the same
numbers                come back in their shortest form (``values``); 1e999 is refused
identifiers            String or Integral, at most 2,045 bytes of UTF-8; never Fractional
names                  of groups that differ only in case are one to SQL: ResourceInUse.
                       ``write_seq`` and ``expires_at`` are reserved as well
history                is visible at once, not after minutes, and has a column ``_event_time_text``
DeleteFeatureGroup     removes history too, and is refused while a feature view uses the group
answers at once        groups are ``Created``, updates ``Successful`` when the call returns
capacity, KMS, roles   kept and described, without effect; nothing is throttled, and there is no
                       quota on the number of groups
ARNs                   account 000000000000, region the one the caller signs for; of an ARN given
                       only the name counts
UpdateRecord           without TtlDuration a record keeps its time to live
BatchWriteRecord       each entry stands alone; ResourceNotFound when no entry has its group
BatchGetRecord         at most 100 records in all, as the quota says
retries                a try of a request done in the last 24 h changes nothing
                       (``amz-sdk-invocation-id``), and without that id nor does a record equal to
                       the current one.  The same holds for creating and updating a group; a
                       delete of a group that is tried again finds it gone
groups from elsewhere  with several identifiers, or a name AWS forbids, are not seen; of other
                       types each has its text (``values``)
=====================  ============================================================================

**Who.**  While a store has no key every caller is its admin, signed or not, on loopback only.
From the first key on requests are verified (``signature``), and the access key's roles decide:
PutRecord, DeleteRecord, UpdateRecord and BatchWriteRecord take ``writer``, reading records
``reader``, Describe, List and Search any role, changing definitions ``admin``, each by pattern of
group.
"""

from __future__ import annotations
