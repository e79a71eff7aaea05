"""Python packages and the modules that they are imported by."""

import re

#: Modules whose package is ``django-`` and their name, with hyphens.
_OF_DJANGO = {
    *("admin_interface", "allauth", "anymail", "auditlog", "axes", "bootstrap4", "bootstrap5", "ckeditor"),
    *("cloudinary_storage", "colorfield", "compressor", "constance", "crispy_forms", "debug_toolbar", "embed_video"),
    *("environ", "grappelli", "guardian", "haystack", "health_check", "hijack", "hitcount", "imagekit"),
    *("import_export", "jazzmin", "leaflet", "loginas", "markdownx", "mathfilters", "modeltranslation", "mptt"),
    *("multiselectfield", "nested_admin", "ninja", "polymorphic", "reversion", "rosetta", "sass_processor", "silk"),
    *("simple_history", "split_settings", "storages", "tables2", "taggit", "tailwind", "tinymce", "treebeard"),
    *("two_factor", "unfold", "waffle", "webpack_loader", "widget_tweaks"),
}
#: Modules whose package has their own name, with hyphens.
_OWN_NAMES = {
    *("aiohttp", "arrow", "bleach", "boto3", "celery", "channels", "channels_redis", "cloudinary"),
    *("crispy_bootstrap4", "crispy_bootstrap5", "cryptography", "dj_database_url", "django", "feedparser", "geoip2"),
    *("html5lib", "httpx", "humanize", "icalendar", "ldap3", "lxml", "matplotlib", "nltk", "num2words", "numpy"),
    *("openai", "openpyxl", "orjson", "pandas", "pdfkit", "pendulum", "phonenumbers", "plotly", "polib", "psutil"),
    *("pydantic", "pydantic_settings", "pypdf", "pytz", "qrcode", "razorpay", "redis", "reportlab", "requests", "rq"),
    *("scipy", "segno", "sentry_sdk", "simplejson", "stripe", "tabulate", "tqdm", "twilio", "ujson", "unidecode"),
    *("vobject", "weasyprint", "whitenoise", "whoosh", "xhtml2pdf", "xlrd", "xlsxwriter", "xlwt", "xmltodict"),
    *("pip", "zeep"),
}
#: Module → the package that has it, where its name is another one.
_PACKAGES = {
    "barcode": "python-barcode",
    "bs4": "beautifulsoup4",
    "ckeditor_uploader": "django-ckeditor",
    "cli_base": "cli-base-utilities",
    "corsheaders": "django-cors-headers",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "decouple": "python-decouple",
    "django_comments": "django-contrib-comments",
    "django_filters": "django-filter",
    "django_q": "django-q2",
    "djcelery_email": "django-celery-email",
    "dns": "dnspython",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "easy_thumbnails": "easy-thumbnails",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "github": "PyGithub",
    "googleapiclient": "google-api-python-client",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "knox": "django-rest-knox",
    "ldap": "python-ldap",
    "login_required": "django-login-required-middleware",
    "magic": "python-magic",
    "markdown": "Markdown",
    "MySQLdb": "mysqlclient",
    "nacl": "PyNaCl",
    "oauth2_provider": "django-oauth-toolkit",
    "OpenSSL": "pyOpenSSL",
    "pdfminer": "pdfminer.six",
    "phonenumber_field": "django-phonenumber-field[phonenumbers]",
    "PIL": "pillow",
    "post_office": "django-post_office",
    "pptx": "python-pptx",
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "pymysql": "PyMySQL",
    "rest_auth": "django-rest-auth",
    "rest_framework": "djangorestframework",
    "rest_framework_extensions": "drf-extensions",
    "rest_framework_json_api": "djangorestframework-jsonapi",
    "rest_framework_nested": "drf-nested-routers",
    "rest_framework_swagger": "django-rest-swagger",
    "serial": "pyserial",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "social_django": "social-auth-app-django",
    "sorl": "sorl-thumbnail",
    "telegram": "python-telegram-bot",
    "yaml": "PyYAML",
}
#: Module → packages that have it too, instead of the one above.
_ALSO = {
    "Crypto": "pycrypto",
    "cv2": "opencv-(contrib-)?python(-headless)?",
    "django_q": "django-q",
    "environ": "environs",
    "magic": "file-magic",
}
#: Extensions of Django, Wagtail and Django REST framework whose package has their own name too.
_BY_PREFIX = re.compile(r"(django(?!_formula)|drf|wagtail)_\w+$")
#: Modules that projects have in their settings for development and leave out of their requirements; no other package
#: brings them.
LEFT_OUT = {
    *("anymail", "channels_redis", "corsheaders", "crispy_bootstrap4", "crispy_bootstrap5", "debug_toolbar"),
    *("decouple", "dj_database_url", "django_celery_beat", "django_celery_results", "django_extensions", "django_q"),
    *("django_redis", "drf_spectacular", "drf_yasg", "environ", "import_export", "sentry_sdk", "silk", "whitenoise"),
    *("widget_tweaks",),
}

#: Modules that pages are made with and that few other packages bring → what the names of these have.
SELDOM = {
    "boto3": r"boto|zappa|s3|aws|amazon|sqs|\bses\b|watchtower|sagemaker|moto\b",
    "bs4": r"wagtail|bootstrap|coderedcms|inlinestyler|premailer|scrap|marka?down|html",
    "docx": r"docx",
    "markdown": r"markdown|mdeditor|martor|wiki|wagtail|docs",
    "openpyxl": r"import-export|tablib|pandas|excel|wagtail",
    "pptx": r"pptx",
    "qrcode": r"two-factor|otp|mfa|allauth|qr",
    "reportlab": r"pdf|svglib|rlpycairo|barcode",
    "rest_framework_simplejwt": r"simplejwt|djoser|rest-auth|ninja-jwt",
    "stripe": r"stripe|pay",
    "whoosh": r"whoosh",
    "xlrd": r"import-export|tablib|pandas|excel",
    "xlsxwriter": r"excel|wagtail|polars",
    "xlwt": r"import-export|tablib|excel",
}


def has(package: str, module: str) -> bool:
    """Return whether a package, in lower case, has a module, of which several packages may be known."""
    name = normalised(package_of(module))
    return package == name or bool(re.fullmatch(_ALSO.get(module, ""), package))


def package_of(module: str) -> str:
    """Return the package that has a module; empty if that is not known."""
    if module in _PACKAGES:
        return _PACKAGES[module]
    name = module.replace("_", "-")
    if module.startswith("rest_framework_"):  # as most extensions of Django REST framework are named
        return name.replace("rest-framework", "djangorestframework")
    if module in _OF_DJANGO:
        return f"django-{name}"
    return name if module in _OWN_NAMES or _BY_PREFIX.match(module) else ""


def normalised(name: str) -> str:
    """Return the name of a package as indexes and metadata compare it (PEP 503).

    Written here: `packaging.utils` has it too, and takes as long to import as a step without work may take.
    """
    return re.sub("[-_.]+", "-", name).lower()
