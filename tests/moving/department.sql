-- The tables of the department whose views change, and the ledger of every change.
--
-- A trigger numbers each change (ver) and writes the number into the row and into what is in it, so
-- that from any bytes one can tell which version of which row they are from; another enters the row
-- as it is then into the ledger. The ledger's own number is taken after the row was changed, so under
-- the row's lock: ordered by it, the ledger holds for each key what was committed, in commit order.
create schema reg;
create schema ledger;
create sequence ledger.change_seq;
create table ledger.entry (
    seq bigint generated always as identity primary key,
    ver bigint not null,
    tbl text not null,
    key bigint not null,
    op char(1) not null,
    image jsonb
);
create index on ledger.entry (ver);

create table reg.person (
    id bigint primary key,
    region char(6),
    name varchar(60) not null,
    phone varchar(60) not null,
    card varchar(60) not null,
    n integer not null,
    note text,
    spare integer default 7,
    ver bigint not null
);
-- Large enough to be stored out of line, and not compressed: an update leaves such a value out.
alter table reg.person alter column note set storage external;
create table reg.account (like reg.person including all);
create table reg.scrap (like reg.person including all);
create table reg.extra (like reg.person including all);

create function ledger.stamp() returns trigger language plpgsql as $$
begin
    new.ver := nextval('ledger.change_seq');
    new.name := format('Zq7Name.%s.%s.%s', tg_table_name, new.id, new.ver);
    new.phone := format('Zq7Phone.%s.%s.%s', tg_table_name, new.id, new.ver);
    new.card := format('Zq7Card.%s.%s.%s', tg_table_name, new.id, new.ver);
    return new;
end $$;

create function ledger.enter() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' or (tg_op = 'UPDATE' and old.id <> new.id) then
        insert into ledger.entry (ver, tbl, key, op)
        values (nextval('ledger.change_seq'), tg_table_name, old.id, 'd');
    end if;
    if tg_op <> 'DELETE' then
        insert into ledger.entry (ver, tbl, key, op, image)
        values (new.ver, tg_table_name, new.id,
                case when tg_op = 'UPDATE' and old.id = new.id then 'u' else 'c' end, to_jsonb(new));
    end if;
    return null;
end $$;

-- The table is locked when this runs, so nobody changes it before it is empty.
create function ledger.enter_all() returns trigger language plpgsql as $$
begin
    execute format(
        'insert into ledger.entry (ver, tbl, key, op)
         select nextval(''ledger.change_seq''), %L, id, ''d'' from reg.%I', tg_table_name, tg_table_name);
    return null;
end $$;

do $$
declare
    t text;
begin
    foreach t in array array['person', 'account', 'scrap', 'extra'] loop
        execute format('create trigger stamp before insert or update on reg.%I for each row execute function ledger.stamp()', t);
        execute format('create trigger enter after insert or update or delete on reg.%I for each row execute function ledger.enter()', t);
        execute format('create trigger enter_all before truncate on reg.%I for each statement execute function ledger.enter_all()', t);
    end loop;
end $$;

create function ledger.region(pick bigint) returns char(6) language sql immutable as $$
    select (array['370705', '370702', '370705', '370781', null, '110000'])[1 + abs(pick) % 6]
$$;
