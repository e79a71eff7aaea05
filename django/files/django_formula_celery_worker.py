"""
Runs a Celery worker, which takes tasks only while it may, and loses none whose name its release does not know.

Such a task is parked in the queue <queue>.unknown, and a worker of a release that knows its name gives it back.
"""

import contextlib
import functools
import math
import sys
import threading
import time
import weakref
from collections import Counter
from queue import Empty

import django
import django_formula_celery_app
import django_formula_celery_unacked
import django_formula_worker
from celery import bootsteps, signals
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Queue

#: Pools that the settings of a project may choose too.
POOLS = ("prefork", "processes", "threads", "solo")
#: Pools whose tasks the worker's loop waits for.
WAITING = ("solo", "gevent")
#: Messages that are given back in one look, so that the worker does its other work in between.
AT_ONCE = 50
#: A header of a parked message: the exchange and the routing key by which it was sent.
ORIGIN = "django_formula_origin"
#: What a message keeps when it is sent again; Celery has all else in its headers.
KEPT = ("correlation_id", "reply_to", "priority", "expiration", "delivery_mode")


def parked(queue):
    """Return the queue of the messages of a queue whose tasks are unknown; no worker takes from it."""
    name = f"{queue}.unknown"
    return Queue(name, routing_key=name)


def publish(producer, message, exchange, routing_key, headers, **options):
    """Send a message again, as it is."""
    kept = {name: message.properties[name] for name in KEPT if message.properties.get(name) is not None}
    if "expiration" in kept:  # it has milliseconds as a text, and kombu makes them of seconds
        kept["expiration"] = float(kept["expiration"]) / 1000
    producer.publish(
        message.body,
        exchange=exchange,
        routing_key=routing_key,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=headers,
        compression=headers.get("compression"),  # kombu has decompressed the body
        **kept,
        **options,
    )


def task_of(message):
    """Return the name of the task of a message, of either of Celery's protocols."""
    return (message.headers or {}).get("task") or message.decode().get("task")


def queue_of(consumer, message):
    """Return the queue that a message was in; Redis does not report it, so it is the one that such messages go to."""
    exchange, routing_key = (message.delivery_info.get(name) or "" for name in ("exchange", "routing_key"))
    if not exchange:  # the default exchange, whose routing keys are the names of queues
        return routing_key
    names = {(queue.exchange.name, queue.routing_key): queue.name for queue in consumer.task_consumer.queues}
    return names.get((exchange, routing_key)) or min(names.values(), default=routing_key)


def park(consumer, _body, message, _error):
    """Keep a message whose task this release does not know; Celery's own method drops it."""
    queue, name = parked(queue_of(consumer, message)), task_of(message)
    info = message.delivery_info
    headers = {**(message.headers or {}), ORIGIN: [info.get("exchange") or "", info.get("routing_key") or ""]}
    with consumer.app.pool.acquire(block=True) as connection, connection.Producer(auto_declare=False) as producer:
        publish(producer, message, "", queue.name, headers, declare=[queue], retry=True)
    message.ack()
    print(f"{name} is not known to this release: parked in {queue.name}", file=sys.stderr, flush=True)


def in_hand():
    """Return the tags of the messages that the worker runs, or is about to run."""
    return {request.message.delivery_tag for request in [*state.active_requests, *state.reserved_requests]}


def count_failures(outcomes, own=Request.on_failure):
    """Count the tasks that an exception ends, from now on."""

    def on_failure(request, exc_info, *arguments, **options):
        if not issubclass(exc_info.type, (Retry, Ignore, Reject)):
            outcomes.failed(request.name, exc_info.type.__name__)
        return own(request, exc_info, *arguments, **options)

    Request.on_failure = on_failure


class Parked:
    """Looks through parked messages, some at a time: gives back those whose task is known, or deletes those of one."""

    def __init__(self, app, queues, drop=""):
        self.app, self.queues, self.drop = app, list(queues), drop
        self.left = None

    def step(self):
        """Look at some messages; return whether there are more."""
        with self.app.pool.acquire(block=True) as connection:
            while self.queues:
                queue = parked(self.queues[0])(connection.default_channel)
                if self.left is None:
                    self.left = queue.queue_declare().message_count
                for _ in range(min(self.left, AT_ONCE)):
                    self.left -= 1
                    self.look(connection, queue)
                if self.left > 0:
                    return True
                self.queues.pop(0)
                self.left = None
        return False

    def look(self, connection, queue):
        """Take one message out; one that stays parked goes to the end of its queue."""
        message = queue.get()
        if message is None:
            self.left = 0
            return
        name, headers = task_of(message), dict(message.headers or {})
        exchange, routing_key = headers.pop(ORIGIN, None) or ("", queue.name[: -len(".unknown")])
        with connection.Producer(auto_declare=False) as producer:
            if not self.drop and name in self.app.tasks:
                publish(producer, message, exchange, routing_key, headers)
            elif name != self.drop:
                publish(producer, message, "", queue.name, message.headers)
        message.ack()


class Follower:
    """Has the worker take tasks while it may, and reports what it does.

    A task of the pool solo runs in the worker's own loop, and gevent's loop waits while the pool is full. Meanwhile
    nothing is taken: the worker looks before it goes on, and a thread reports that.
    """

    def __init__(self, given, app, pool):
        self.given, self.app, self.waits = given, app, pool in WAITING
        self.report, self.outcomes = django_formula_worker.Report(given), django_formula_worker.Outcomes()
        self.holder = django_formula_celery_unacked.Holder(app, given["unit"])
        self.consumer, self.queues, self.giving_back, self.entry = None, [], None, None
        self.futures = weakref.WeakValueDictionary()
        self.is_ready = self.is_stopping = self.is_reporting = self.is_waiting = False

    def hold(self, instance, **_given):
        """Begin without any queue, so that nothing is taken before the first look."""
        queues = self.app.amqp.queues
        self.queues = list(queues.consume_from)
        queues.deselect(self.queues)
        self.holder.start()
        pool = instance.pool
        pool.apply_async = self.looking_after(pool.apply_async)
        if hasattr(pool, "executor"):  # of threads, which would run what is reserved too, up to Celery 5.6
            pool.on_stop = functools.partial(pool.executor.shutdown, cancel_futures=True)

    def looking_after(self, apply):
        """Return the method of a pool that takes a task to run, for which the worker's loop may wait."""

        def applied(*arguments, **options):
            self.is_waiting = self.waits
            result = apply(*arguments, **options)
            if self.waits:
                time.sleep(0)  # gevent begins the task now
                self.look()
                self.is_waiting = False
            if hasattr(result, "f"):  # of threads
                self.futures[options["correlation_id"]] = result.f
            return result

        return applied

    def begin(self, sender, **_given):
        """Look from now on, in the worker's own loop."""
        self.consumer = sender
        self.watch()
        self.look()
        if self.waits:
            self.write_from_thread()

    def watch(self):
        """Look repeatedly from now on."""
        if self.entry is not None:
            self.entry.cancel()
        if self.consumer.hub is None:  # as with gevent
            wait_less(self.consumer.connection)
        later = self.consumer.call_soon, (self.look,)
        self.entry = self.consumer.timer.call_repeatedly(django_formula_worker.LOOK, *later)

    def look(self):
        """Take tasks or take none, as it has to be now."""
        consumer = self.consumer and self.consumer.task_consumer
        if consumer and not self.is_stopping:
            may_take = django_formula_worker.may_take(self.given)
            for queue in self.queues:
                if may_take != bool(consumer.consuming_from(queue)):
                    (self.consumer.add_task_queue if may_take else self.consumer.cancel_task_queue)(queue)
                    self.giving_back = Parked(self.app, self.queues) if may_take else None
            if self.giving_back and not self.giving_back.step():
                self.giving_back = None
            if may_take:
                self.holder.look(consumer.channel, in_hand)
        if not self.is_reporting:
            self.write()
        if not self.is_ready:
            self.is_ready = True
            self.report.ready()

    def write(self):
        """Report what the worker does."""
        consumer = self.consumer and self.consumer.task_consumer
        is_taking = bool(consumer and consumer.queues)
        running = list(state.active_requests)
        self.report.write(
            fetching=is_taking and (not self.is_waiting or django_formula_worker.may_take(self.given)),
            active=len(running),
            reserved=max(len(state.reserved_requests) - len(running), 0),
            done=max(sum(list(state.total_count.values())) - len(running), 0),
            tasks={request.name for request in running},
            outcomes=self.outcomes.found(state.total_count.copy(), Counter(request.name for request in running)),
        )

    def stop(self, **_given):
        """Report from a thread, since the worker's loop ends while tasks still run."""
        self.is_stopping = True
        self.write_from_thread()

    def close(self, consumer, own=Consumer.on_close):
        """Give back what was fetched and not begun, where Celery would keep it until the tasks in hand have ended."""
        kept = [*self.not_begun(consumer)] if self.is_stopping else []
        own(consumer)
        with contextlib.suppress(*consumer.connection_errors):  # a broker that is gone gives back what was with it
            if kept:
                end_poll(consumer.task_consumer.channel)
            for request in kept:
                request.message.requeue()

    def not_begun(self, consumer):
        """Yield the requests of tasks that wait for their time, or for the pool."""
        for waiting in list(consumer.timer.queue):
            arguments = waiting.entry.args
            if arguments and isinstance(arguments[0], Request):
                yield arguments[0]
        unsent = getattr(getattr(consumer.pool, "_pool", None), "outbound_buffer", None)  # of prefork
        for request in state.reserved_requests - state.active_requests:
            future, result = self.futures.get(request.id), request._apply_result
            if future.cancel() if future else unsent is not None and (result is None or result() in unsent):
                yield request

    def finish(self, consumer):
        """Wait for what gevent runs while its messages can be acknowledged; Celery waits for what other pools run."""
        while self.waits and self.is_stopping and state.active_requests:
            time.sleep(django_formula_worker.LOOK)
        consumer.perform_pending_operations()

    def write_from_thread(self):
        if not self.is_reporting:
            self.is_reporting = True
            threading.Thread(target=self.write_on, daemon=True).start()

    def write_on(self):
        while True:
            try:
                self.write()
            except RuntimeError:  # a set has changed while it was read
                continue
            time.sleep(django_formula_worker.LOOK)


def wait_less(connection):
    """Have a connection wait for messages for a look at most: the loop of Celery that blocks waits for 2 s."""
    drain = connection.drain_events
    connection.drain_events = lambda timeout=None: drain(timeout=min(timeout or math.inf, django_formula_worker.LOOK))


def end_poll(channel):
    """Wait until a channel of Redis takes no message any more: it has sent a BRPOP that ends after 1 s."""
    if getattr(channel, "_in_poll", None):
        with contextlib.suppress(Empty):
            channel._brpop_read()


def watching(follower):
    """Return a step of Celery's consumer, which begins at each connection to the broker.

    Celery up to 5.5 clears its timer when a connection is lost, and would never look again.
    """

    class Watching(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, _consumer):
            if follower.consumer is not None:  # at the first connection it begins once the worker is ready
                follower.holder.reconnected()
                follower.watch()

        def stop(self, consumer):
            follower.finish(consumer)

    return Watching


def arguments(given):
    """Return the arguments of `celery worker`."""
    argv = ["worker", f"--hostname={given['unit']}@%h", f"--concurrency={given['processes']}"]
    if given["queues"]:
        argv.append(f"--queues={','.join(given['queues'])}")
    for name, value in given["options"].items():
        option = f"--{name.replace('_', '-')}"
        if value is not False:
            argv.append(option if value is True else f"{option}={value}")
    return argv


def pool_of(app, chosen):
    """Return the pool of the worker: that of the pillar, or else that of the project's settings.

    Celery prefers a pool of the settings to `--pool=prefork`, so that only the pillar's is left in them.

    Raises:
        RuntimeError: the pool of the settings cannot be used.
    """
    pool = chosen or app.conf.worker_pool
    if pool == "gevent" and not chosen:
        raise RuntimeError("worker_pool of the project's settings needs the option pool: gevent of the worker")
    if pool not in (*POOLS, "gevent"):
        raise RuntimeError(f"worker_pool of the project's settings is not supported: {pool!r}")
    app.conf.worker_pool = pool if pool in POOLS else POOLS[0]
    return pool


def start(app, argv):
    """Run `celery worker` until it ends; Celery 5.0.0 to 5.0.2 has no `worker_main`, and later ones do this in it."""
    if hasattr(app, "worker_main"):
        return app.worker_main(argv)
    from celery.bin.celery import celery

    celery.params[0].default = app
    return celery.main(args=argv, standalone_mode=False)


def run(given):
    """Run the worker until it is stopped; `django_formula_celery` calls this.

    Args:
        given: the worker's configuration.
    """
    django.setup()
    app = django_formula_celery_app.find(given["app"], given["modules"])
    follower = Follower(given, app, pool_of(app, given["options"].get("pool")))
    Consumer.on_unknown_task, Consumer.on_close = park, lambda consumer: follower.close(consumer)
    count_failures(follower.outcomes)
    app.steps["consumer"].add(watching(follower))
    signals.celeryd_after_setup.connect(follower.hold)
    signals.worker_ready.connect(follower.begin)
    signals.worker_shutting_down.connect(follower.stop)
    sys.argv[0] = "celery"
    sys.exit(start(app, arguments(given)))
