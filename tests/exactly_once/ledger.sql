-- The tables that the exactly-once tests change, and the ledger of every change.
--
-- Each change takes a number from ledger.change_seq, stores it in the row (column ver) and enters it
-- into the ledger, in one transaction. The ledger's own number is taken after the row was changed,
-- so under the row's lock: ordered by it, the ledger holds for each key what was committed, in
-- commit order.
create schema reg;
create schema ledger;
create sequence ledger.change_seq;
create table ledger.entry (
    seq bigint generated always as identity primary key,
    ver bigint not null,
    tbl text not null,
    key bigint not null,
    op char(1) not null
);

-- Rows that enter and leave the view as their region changes; note is now and then large enough to
-- be stored out of line, and secret is in no view.
create table reg.item (
    id bigint primary key,
    region char(6),
    name varchar(60) not null,
    amount numeric(18,4) not null,
    note text,
    secret varchar(40) not null,
    ver bigint not null
);
-- Groups of rows that every transaction changes together: wherever two rows of a group differ in
-- mark, part of a transaction is seen.
create table reg.pair (
    id bigint primary key,
    grp integer not null,
    mark bigint not null,
    ver bigint not null
);
-- Rows that are truncated.
create table reg.scrap (
    id bigint primary key,
    ver bigint not null
);

create function ledger.region(pick integer) returns char(6) language sql immutable as $$
    select (array['370705', '370702', '370705', '370781', null, '110000'])[1 + abs(pick) % 6]
$$;

create function ledger.insert_items(low bigint, high bigint, pick integer) returns void language sql as $$
    with changed as (
        insert into reg.item
        select n, ledger.region((n % 1000)::integer + pick), 'name ' || n, n * 1.0001,
               case when n % 50 = 0 then repeat(md5(n::text), 120) end, 'SECRET-' || n, nextval('ledger.change_seq')
        from generate_series(low, high) n
        on conflict (id) do nothing
        returning id, ver
    )
    insert into ledger.entry (ver, tbl, key, op) select ver, 'item', id, 'c' from changed
$$;

create function ledger.update_items(low bigint, high bigint, pick integer) returns void language sql as $$
    with changed as (
        update reg.item
        set region = ledger.region((id % 1000)::integer + pick), amount = amount + 0.0001,
            name = 'name ' || id || ' ' || pick, ver = nextval('ledger.change_seq')
        where id between low and high
        returning id, ver
    )
    insert into ledger.entry (ver, tbl, key, op) select ver, 'item', id, 'u' from changed
$$;

create function ledger.delete_items(low bigint, high bigint) returns void language sql as $$
    with changed as (
        delete from reg.item where id between low and high
        returning id, nextval('ledger.change_seq') as ver
    )
    insert into ledger.entry (ver, tbl, key, op) select ver, 'item', id, 'd' from changed
$$;

-- Moves a row to another key: a delete and an insert, in this order.
create function ledger.move_item(source bigint, target bigint) returns void language plpgsql as $$
declare
    moved bigint;
begin
    update reg.item set id = target, ver = nextval('ledger.change_seq')
    where id = source and not exists (select from reg.item where id = target)
    returning ver into moved;
    if moved is not null then
        insert into ledger.entry (ver, tbl, key, op) values (nextval('ledger.change_seq'), 'item', source, 'd');
        insert into ledger.entry (ver, tbl, key, op) values (moved, 'item', target, 'c');
    end if;
exception when unique_violation then
    null;
end
$$;

create function ledger.mark_group(which integer) returns void language sql as $$
    with changed as (
        update reg.pair set mark = txid_current(), ver = nextval('ledger.change_seq')
        where grp = which
        returning id, ver
    )
    insert into ledger.entry (ver, tbl, key, op) select ver, 'pair', id, 'u' from changed
$$;

create function ledger.insert_scraps(low bigint, high bigint) returns void language sql as $$
    with changed as (
        insert into reg.scrap select n, nextval('ledger.change_seq') from generate_series(low, high) n
        on conflict (id) do nothing
        returning id, ver
    )
    insert into ledger.entry (ver, tbl, key, op) select ver, 'scrap', id, 'c' from changed
$$;

create function ledger.truncate_scraps() returns void language plpgsql as $$
begin
    lock table reg.scrap in access exclusive mode;
    insert into ledger.entry (ver, tbl, key, op) select nextval('ledger.change_seq'), 'scrap', id, 'd' from reg.scrap;
    truncate reg.scrap;
end
$$;
