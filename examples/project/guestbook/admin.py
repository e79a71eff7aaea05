from django.contrib import admin

from .models import Entry


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ["name", "created", "attachment", "hidden"]
    list_editable = ["hidden"]
    list_filter = ["hidden", "created"]
    search_fields = ["name", "message"]
    readonly_fields = ["created"]
