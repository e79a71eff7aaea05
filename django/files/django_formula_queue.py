"""
Report what waits in the queues of a site's workers, and what is parked there: a request on stdin, the answer on stdout.

It runs in the site's virtualenv as its user: there the client of the broker is, and the password of one elsewhere. The
project is imported: it may have options of the broker, such as a prefix of its keys.
"""

import json
from collections import Counter

import django_formula_start

#: Messages of a queue whose names are read.
LIMIT = 20_000


def queues(request):
    """Answer a request: for each queue how many tasks wait, are parked, and their names where these are asked for."""
    found = {}
    for worker in request["workers"]:
        for name, queue in KINDS[worker["kind"]](worker, request).items():
            found.setdefault(name, queue)
    return {"queues": found}


def celery(worker, request):
    """Return the queues of a Celery worker."""
    import django
    import django_formula_celery_app

    django.setup()
    app = django_formula_celery_app.find(worker["app"], request["modules"])
    if request["give_back"] or request["drop"]:
        change_parked(app, worker["queues"], request)
    with app.connection_for_read() as connection:
        held = unacknowledged(connection)
        return {
            name: {**celery_queue(connection, name, request["names"]), **held.get(name, held[""])}
            for name in worker["queues"]
        }


def unacknowledged(connection):
    """Return how many messages of each queue workers have taken and not acknowledged; `""` is for all other queues."""
    if connection.transport.driver_type != "redis":  # other brokers give them back when the connection ends
        return {"": {}}
    import django_formula_celery_unacked

    found, none = django_formula_celery_unacked.count(connection.default_channel, LIMIT)
    counts = {"": none, **found}
    return {
        queue: {"unacknowledged": taken, **({} if left is None else {"abandoned": left})}
        for queue, (taken, left) in counts.items()
    }


def change_parked(app, names, request):
    """Give back the parked tasks whose names the release knows, or delete those of one name."""
    import django_formula_celery_worker

    if request["give_back"]:
        app.loader.import_default_modules()
    sorter = django_formula_celery_worker.Parked(app, names, drop=request["drop"])
    while sorter.step():
        pass


def celery_queue(connection, name, with_names):
    """Return what is in a queue, and parked next to it."""
    waiting, parked = count(connection, name), count(connection, f"{name}.unknown")
    found = {"waiting": waiting, "parked": parked}
    if with_names:
        found["names"] = names_in(connection, name) if waiting else {}
        found["parked_names"] = names_in(connection, f"{name}.unknown") if parked else {}
    return found


def count(connection, name):
    """Return how many messages are in a queue; one that does not exist has none."""
    if connection.transport.driver_type == "redis":  # kombu finds no queue there whose key has a prefix
        return connection.default_channel._size(name)
    try:
        return connection.channel().queue_declare(name, passive=True).message_count
    except connection.channel_errors:
        return 0


def names_in(connection, name):
    """Return how many messages there are of each task; None where the broker shows a message only by taking it."""
    channel = connection.default_channel
    if connection.transport.driver_type != "redis":
        return None
    prefix = getattr(channel, "global_keyprefix", "")
    counted = Counter()
    for priority in channel.priority_steps:
        for message in channel.client.lrange(f"{prefix}{channel._q_for_pri(name, priority)}", 0, LIMIT - 1):
            counted[task_in(message)] += 1
    return dict(counted)


def task_in(message):
    """Return the name of the task of a message as Redis has it; of one of another program it is not known."""
    try:
        return str((json.loads(message).get("headers") or {}).get("task") or "unknown")
    except (AttributeError, ValueError, RecursionError):
        return "unknown"


def rq(worker, request):
    """Return the queues of RQ's workers."""
    import django
    import django_formula_rq

    django.setup()
    found = {}
    for queue in django_formula_rq.make(worker).queues:
        found[queue.name] = {"waiting": queue.count, "failed": queue.failed_job_registry.count}
        if request["names"]:
            found[queue.name]["names"] = dict(Counter(rq_names(queue)))
    return found


def rq_names(queue):
    """Return the function of each job of a queue: what its description begins with, so that nothing is unpickled."""
    connection = queue.connection
    pipeline = connection.pipeline(transaction=False)
    for job in connection.lrange(queue.key, 0, LIMIT - 1):
        pipeline.hget(f"rq:job:{job.decode()}", "description")
    return [(text or b"unknown").decode(errors="replace").partition("(")[0] for text in pipeline.execute()]


def huey(worker, request):
    """Return the queue of a huey."""
    import django
    import django_formula_huey

    django.setup()
    if request["names"]:
        django_formula_huey.import_tasks()
    instance = django_formula_huey.instance(worker)
    found = {"waiting": instance.pending_count(), "scheduled": instance.scheduled_count()}
    if request["names"]:
        found["names"] = dict(Counter(task.name for task in instance.pending(LIMIT)))
    return {str(instance.name): found}


KINDS = {"celery": celery, "rq": rq, "huey": huey}


if __name__ == "__main__":
    django_formula_start.serve({"queue": queues})
