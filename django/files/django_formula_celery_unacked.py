"""
Keeps in Redis which worker holds each message that is not acknowledged, and gives back those of a worker that is gone.

Redis itself has the messages alone, so Celery gives one back when it is older than visibility_timeout, an hour.
"""

import contextlib
import json
import socket
import sys
import threading
import time
import uuid
from collections import Counter

#: Seconds between two signs of life, and between two looks at other workers.
BEAT = LOOK = 5.0
#: Seconds for which a worker must have had no connection; each connects again within a beat of a restart of Redis.
GRACE = 20.0
#: Seconds for which it must have given no sign of life, where the server does not list its connections.
LAPSE = 60.0
#: Messages that are given back in one look, and how often one is: a task that ends its worker would end all of them.
AT_ONCE, OFTEN = 50, 3
#: Seconds between a worker's note of a message and that of Celery; more, and it is of another worker since.
APART = 1.0
#: A header of a message: how often it was given back.
GIVEN_BACK = "django_formula_given_back"


class Keys:
    """The names of the keys: Celery's own, and hashes next to them, of workers and of what each holds."""

    def __init__(self, channel):
        self.prefix = getattr(channel, "global_keyprefix", "") or ""
        self.unacked, self.index = channel.unacked_key, channel.unacked_index_key
        self.holders = f"{self.unacked}_holders"

    def held(self, name):
        return f"{self.unacked}_held:{name}"

    def full(self, key):
        """Return a key as the server has it; kombu adds its prefix to the keys of those commands that it knows."""
        return f"{self.prefix}{key}"


def client_of(channel):
    """Return a client of the server of a channel that adds no prefix."""
    import redis

    return redis.Redis(connection_pool=channel.pool)


def text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def connected(client):
    """Return the names of all connections of the server; None where it does not list them, or is several servers."""
    from redis.exceptions import ResponseError

    marker = f"django_formula:{uuid.uuid4().hex}"
    pipe = client.pipeline()  # of one connection
    pipe.execute_command("CLIENT SETNAME", marker)
    pipe.execute_command("CLIENT LIST")
    try:
        listed = pipe.execute()[1]
    except ResponseError:
        return None
    names = {text(one.get("name", "")) for one in listed}
    return names if marker in names else None


class Holder:
    """A worker: what it holds, as Redis has it too, and the signs of life that it gives there.

    Args:
        app: the Celery app.
        unit: the unit of the worker.
    """

    def __init__(self, app, unit):
        self.app, self.name = app, f"{unit}@{socket.gethostname()}:{uuid.uuid4().hex[:12]}"
        self.keys = self.client = None
        self.records = self.is_refused = False
        self.noting = threading.local()
        #: The messages that it holds, with the number of the connection by which it took them.
        self.held, self.connection = {}, 0
        self.absent, self.next, self.dropped = {}, 0.0, None

    def start(self):
        """Note what the worker takes, from now on; do nothing where the broker is not Redis."""
        if self.app.connection_for_read().transport.driver_type != "redis":
            return
        from kombu.transport import redis

        redis.Channel.QoS = noting(redis.Channel.QoS, self)
        self.beat()
        threading.Thread(target=self.beat_on, daemon=True).start()

    def beat_on(self):
        while not self.is_refused:
            time.sleep(BEAT)
            self.beat()

    def beat(self):
        """Give a sign of life: a connection of this worker's name, which ends with it, and a number that grows."""
        try:
            self.client = self.client or self.connect()
            with contextlib.suppress(self.refused()):
                self.client.execute_command("CLIENT SETNAME", self.name)
            self.client.hincrby(self.keys.full(self.keys.holders), self.name, 1)
            if not self.records:
                held = self.keys.full(self.keys.held(self.name))
                self.client.hset(held, "", "")
                self.client.hdel(held, "")
                self.records = True
        except self.refused() as error:
            if not self.records and "NOPERM" in str(error).upper():
                self.is_refused = True
                print(f"tasks of a worker that is killed come back late: {error}", file=sys.stderr, flush=True)
        except Exception:  # the server does not answer: the next one is tried again, and the worker reports it itself
            return

    def connect(self):
        """Return a client with a connection of its own."""
        import redis

        with contextlib.closing(self.app.connection_for_read().channel()) as channel:
            self.keys = Keys(channel)
            return redis.Redis(connection_pool=channel._get_pool())

    def refused(self):
        from redis.exceptions import ResponseError

        return ResponseError

    # What the worker holds

    def took(self, tag):
        self.held[tag] = self.connection

    def let_go(self, tag):
        self.held.pop(tag, None)

    def reconnected(self):
        """Give back later what was taken by an earlier connection and is not in hand: Celery has dropped that."""
        self.connection += 1
        self.dropped = time.monotonic() + GRACE  # by then the pool has begun what it had

    # What others have left

    def look(self, channel, in_hand):
        """Give back messages of workers that are gone, some at a time.

        Args:
            channel: that of the worker's consumer.
            in_hand: called for the tags of the messages that the worker has in hand.
        """
        now = time.monotonic()
        if not self.records or now < self.next:
            return
        self.next = now + LOOK
        try:
            if self.dropped is not None and now >= self.dropped:
                self.give_back_own(channel, in_hand())
            self.look_at_others(channel, now)
        except Exception as error:  # the worker itself reports a server that does not answer
            self.absent.clear()
            print(f"tasks of workers that are gone were not looked for: {error}", file=sys.stderr, flush=True)

    def give_back_own(self, channel, in_hand):
        earlier = [tag for tag, connection in list(self.held.items()) if connection != self.connection]
        for tag in earlier:
            if tag not in in_hand:
                give_back(channel, self.keys.held(self.name), tag)
                self.let_go(tag)
        self.dropped = None

    def look_at_others(self, channel, now):
        client = client_of(channel)
        beats = client.hgetall(self.keys.full(self.keys.holders))
        names = connected(client)
        found = {text(name): text(beat) for name, beat in beats.items()}
        found.pop(self.name, None)
        for name in {*self.absent} - {*found}:
            del self.absent[name]
        for name, beat in found.items():
            last, since = self.absent.get(name, ("", now))
            if beat != last or (names is not None and name in names):
                self.absent[name] = (beat, now)
            elif now - since >= (LAPSE if names is None else GRACE) and not self.empty(channel, client, name):
                self.next = now
                return

    def empty(self, channel, client, name):
        """Give back what a worker held that is gone; return whether nothing is left to do."""
        held, given = self.keys.held(name), 0
        for tag, noted in client.hgetall(self.keys.full(held)).items():
            score = client.zscore(self.keys.full(self.keys.index), tag)
            if score is None or not -0.01 <= score - float(noted) <= APART:  # it was given back, and taken again
                client.hdel(self.keys.full(held), tag)
            elif time.time() - score < channel.visibility_timeout - GRACE:  # else Celery gives it back itself
                given += give_back(channel, held, text(tag))
            if given >= AT_ONCE:
                return False
        if given:
            print(f"{given} tasks of {name}, which is gone, are given back", file=sys.stderr, flush=True)
        if not client.hlen(self.keys.full(held)):
            client.hdel(self.keys.full(self.keys.holders), name)
            self.absent.pop(name, None)
        return True


def noting(base, holder):
    """Return kombu's class for what is not acknowledged, with notes of the worker that holds it."""

    class Noting(base):
        def append(self, message, delivery_tag):
            holder.noting.tag = (delivery_tag, repr(time.time())) if holder.records else None
            try:
                super().append(message, delivery_tag)
            finally:
                holder.noting.tag = None
            holder.took(delivery_tag)

        @contextlib.contextmanager
        def pipe_or_acquire(self, pipe=None, client=None):
            with super().pipe_or_acquire(pipe, client) as found:
                if getattr(holder.noting, "tag", None):
                    found.hset(holder.keys.held(holder.name), *holder.noting.tag)
                yield found

        def _remove_from_indices(self, delivery_tag, pipe=None):
            removing = super()._remove_from_indices(delivery_tag, pipe)
            holder.let_go(delivery_tag)
            if holder.records:  # also of what is not held any more: a transaction is tried again after a conflict
                removing.hdel(holder.keys.held(holder.name), delivery_tag)
            return removing

    return Noting


def give_back(channel, held, tag):
    """Put a message back into its queue, unless another worker has done so; return whether it was put back.

    Args:
        held: the key of what the worker that took it holds.
    """
    done = False

    def change(pipe):
        nonlocal done
        done = False
        is_held = pipe.hget(held, tag) is not None
        found = pipe.hget(channel.unacked_key, tag) if is_held else None
        pipe.multi()
        if found is None:
            pipe.hdel(held, tag)
            return
        message, exchange, routing_key = json.loads(found)
        headers = message.get("headers") or {}
        times = int(headers.get(GIVEN_BACK) or 0)
        if times >= OFTEN:  # Celery gives it back in its time
            return
        message["headers"] = {**headers, GIVEN_BACK: times + 1}
        channel.qos._remove_from_indices(tag, pipe)
        pipe.hdel(held, tag)
        channel._do_restore_message(message, exchange, routing_key, pipe)
        done = True

    with channel.conn_or_acquire() as client:
        client.transaction(change, held)
    return done


def count(channel, limit):
    """Count the messages that are not acknowledged, by queue.

    Args:
        limit: the most messages that are looked at.

    Returns:
        For each queue the number, and of these the number of those whose worker is gone, or None where the server does
        not list its connections; the same for a queue that has none.
    """
    client, keys = client_of(channel), Keys(channel)
    names = connected(client)
    holders = [text(name) for name in client.hkeys(keys.full(keys.holders))]
    gone = set()
    for name in holders if names is not None else ():
        if name not in names:
            gone |= {*client.hkeys(keys.full(keys.held(name)))}
    places, found, left = {}, Counter(), Counter()
    for looked_at, (tag, value) in enumerate(client.hscan_iter(keys.full(keys.unacked), count=1000)):
        if looked_at == limit:
            break
        _message, exchange, routing_key = json.loads(value)
        if (exchange, routing_key) not in places:
            places[exchange, routing_key] = list(channel._lookup(exchange, routing_key))
        for queue in places[exchange, routing_key]:
            found[queue] += 1
            left[queue] += tag in gone
    is_known = names is not None
    counted = {queue: (number, left[queue] if is_known else None) for queue, number in found.items()}
    return counted, (0, 0 if is_known else None)
