from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("guestbook", "0002_entry_attachment"),
    ]

    operations = [
        migrations.AddField(
            model_name="entry",
            name="hidden",
            field=models.BooleanField(default=False, help_text="Hidden entries are seen in the admin only."),
        ),
    ]
