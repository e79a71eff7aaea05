import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("guestbook", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="entry",
            name="attachment",
            field=models.FileField(
                blank=True,
                help_text="A picture, a PDF or a text file.",
                upload_to="attachments/%Y/%m/",
                validators=[
                    django.core.validators.FileExtensionValidator(["gif", "jpeg", "jpg", "pdf", "png", "txt", "webp"])
                ],
            ),
        ),
    ]
