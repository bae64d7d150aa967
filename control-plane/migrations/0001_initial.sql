-- The control plane's store. Every stored object has an owner: the organisation that answers for it;
-- "platform" is the organisation that runs the installation.
--
-- Desired state lives here, observed state never does: that is read from the status topics.

create table token (
    id bigint generated always as identity primary key,
    hash bytea not null unique check (length(hash) = 32),
    owner text not null,
    role text not null check (role in ('admin', 'operator', 'reader')),
    description text not null default '',
    created_at timestamptz not null default now(),
    revoked_at timestamptz
);
comment on column token.hash is 'SHA-256 of the token; the token itself is stored nowhere';

create table organisation (
    name text primary key,
    owner text not null,
    kafka_principal text,
    created_at timestamptz not null default now()
);
comment on column organisation.kafka_principal is 'who may read topics of views given to this organisation, such as User:qts';

create table connector (
    name text primary key,
    owner text not null,
    kind text not null check (kind in ('source', 'sink')),
    class text not null,
    location text not null,
    config jsonb not null,
    target text not null check (target in ('running', 'paused', 'stopped', 'deleted')),
    created_at timestamptz not null default now(),
    deleted_at timestamptz,
    check ((target = 'deleted') = (deleted_at is not null))
);

-- What only one source connector may have. A claim ends when the worker has removed what it made.
create table source_claim (
    connector text primary key references connector on delete cascade,
    owner text not null,
    topic_prefix text not null unique,
    slot text not null unique
);

-- Whose topics under a prefix are. It outlives connectors, as the topics do: a prefix once used
-- belongs to its first owner until the platform releases it.
create table topic_prefix (
    prefix text primary key,
    owner text not null,
    created_at timestamptz not null default now()
);

create table sink_input (
    connector text not null references connector on delete cascade,
    owner text not null,
    name text not null,
    view text,
    fixed jsonb,
    ordinal integer not null,
    primary key (connector, name),
    check ((view is null) = (fixed is not null))
);
create index on sink_input (view);
comment on column sink_input.view is 'the view, when the input is one; a view may be revoked and return, so this refers to its name';
comment on column sink_input.fixed is 'id and partitions of the topic, when the input is a table''s topic';

create table schema (
    id integer primary key,
    owner text not null,
    hash bytea not null,
    text text not null,
    created_at timestamptz not null default now(),
    refers_to jsonb not null default '[]',
    gone boolean not null default false
);
create index on schema (hash);
comment on column schema.hash is 'of one id, except after a restore from a backup, where ids are found again that were issued since';

-- One row. An id at or below the highest that was ever issued is never issued again.
create table schema_id_highest (
    id integer not null,
    single boolean primary key default true check (single)
);
insert into schema_id_highest (id) values (0);

create index on schema using gin (refers_to jsonb_path_ops) where refers_to <> '[]';
comment on column schema.refers_to is 'versions of subjects that define names which the schema uses';
comment on column schema.gone is 'deleted for good; the row stays, so that the id is never another schema''s';

create table subject (
    name text primary key,
    owner text not null,
    view text,
    compatibility text,
    mode text,
    version_highest integer not null default 0
);
create index on subject (view);

create table subject_version (
    subject text not null references subject,
    version integer not null,
    owner text not null,
    schema_id integer not null references schema,
    deleted boolean not null default false,
    primary key (subject, version)
);
create index on subject_version (schema_id);

create table setting (
    name text primary key,
    owner text not null,
    value text not null
);

create table view (
    name text primary key,
    owner text not null,
    subscriber text not null,
    state text not null check (state in ('live', 'revoked', 'gone')),
    reason text check (reason in ('revoked', 'expired')),
    document jsonb not null,
    compiled jsonb not null,
    source_topic text not null,
    source_topic_id text not null,
    location text not null,
    partitions integer not null,
    version bigint not null,
    generation bigint not null,
    valid_until_ms bigint,
    kafka_principal text,
    acl_granted boolean not null default false,
    acl_confirmed boolean not null default false,
    share text not null,
    withdrawn jsonb not null default '[]',
    rekeyed boolean not null default false,
    withdrawn_since bigint not null,
    is_refilling boolean not null default false,
    fill_ends jsonb,
    closing_at timestamptz,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    check ((state = 'live') = (revoked_at is null))
);
create index on view (source_topic);
create index on view (owner, share);
comment on column view.acl_granted is 'written before the grant is made, so that whoever may have it is known';
comment on column view.withdrawn is 'columns whose values in generations since withdrawn_since must be nowhere any more';
comment on column view.rekeyed is 'whether keys in a generation since withdrawn_since are others than now';
comment on column view.withdrawn_since is 'the generation up to which every sink was known to have forgotten what was withdrawn';
comment on column view.fill_ends is 'by partition, the offset behind the first fill of this generation; null until it is known';
comment on column view.closing_at is 'since when the generation is being closed, so that nobody is granted its topic';
comment on column view.compiled is 'what processors get in their task beside state and version: schemas, topic, table';

-- A generation that was closed because what it held is granted no longer. Its topic goes when its
-- writers have let go of it, or at the bound; then the row goes too.
create table view_generation (
    view text not null references view,
    generation bigint not null,
    owner text not null,
    topic text not null,
    source_topic text not null,
    rows bigint not null,
    kafka_principal text,
    closed_at timestamptz not null default now(),
    primary key (view, generation)
);

create table share (
    owner text not null,
    name text not null,
    key_version integer not null default 1,
    secret_fingerprint text,
    primary key (owner, name)
);
comment on column share.secret_fingerprint is 'of the master secret under which a processor first wrote keys or hashes of this key version';

create table task (
    id text primary key,
    owner text not null,
    location text not null,
    connector text not null,
    kind text not null check (kind in ('source', 'processor', 'sink')),
    version bigint not null,
    first_version bigint not null,
    restart bigint not null default 0,
    target text not null check (target in ('running', 'paused', 'stopped', 'deleted')),
    config jsonb,
    source_topic text
);
create index on task (connector);
create index on task (source_topic);
comment on column task.config is 'null once the task is gone; the row stays, so that no version is ever used again';
comment on column task.first_version is 'states reported for an older version belong to a former task of that id';

create table outbox (
    id bigint generated always as identity primary key,
    owner text not null,
    topic text not null,
    topic_partition integer,
    key text not null,
    value text,
    created_at timestamptz not null default now(),
    published_at timestamptz,
    refused text
);
comment on column outbox.refused is 'why Kafka will never take this record, which therefore holds nobody up';
create index outbox_not_published on outbox (id) where published_at is null;
create index outbox_published on outbox (published_at) where published_at is not null;
