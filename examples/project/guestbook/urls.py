from django.urls import path

from . import views

app_name = "guestbook"

urlpatterns = [
    path("", views.EntryList.as_view(), name="entries"),
    path("sign/", views.Sign.as_view(), name="sign"),
    path("healthz", views.health, name="health"),
    path("release", views.release, name="release"),
    path("slow", views.slow, name="slow"),
]
