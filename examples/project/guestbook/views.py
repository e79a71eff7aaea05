import os
import time

from django import forms
from django.contrib.messages.views import SuccessMessageMixin
from django.db import DatabaseError
from django.http import HttpResponse, JsonResponse
from django.urls import reverse_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django.views.generic import CreateView, ListView

from .models import Entry
from .version import RELEASE_NOTE, VERSION


class EntryList(ListView):
    queryset = Entry.objects.filter(hidden=False)
    paginate_by = 10
    extra_context = {"version": VERSION}


class Sign(SuccessMessageMixin, CreateView):
    model = Entry
    fields = ["name", "message", "attachment"]
    success_url = reverse_lazy("guestbook:entries")
    success_message = "Thank you, %(name)s."
    extra_context = {"version": VERSION}


class Wait(forms.Form):
    seconds = forms.FloatField(min_value=0, max_value=30)


@never_cache
@require_safe
def health(request):
    try:
        Entry.objects.exists()
    except DatabaseError:
        return HttpResponse("database unavailable\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")


def running():
    return {
        "release": os.environ.get("DJANGO_RELEASE"),
        "pid": os.getpid(),
        "version": VERSION,
        "note": RELEASE_NOTE,
    }


@never_cache
@require_safe
def release(request):
    return JsonResponse(running())


@never_cache
@require_safe
def slow(request):
    wait = Wait({"seconds": request.GET.get("seconds", "1")})
    if not wait.is_valid():
        return JsonResponse(wait.errors, status=400)
    time.sleep(wait.cleaned_data["seconds"])
    return JsonResponse({**running(), "seconds": wait.cleaned_data["seconds"]})
