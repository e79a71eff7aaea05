"""Python packages and the modules that they are imported by, where these have other names."""

import re

#: Module → the package that has it, where its name is another one.
_PACKAGES = {
    **{
        name: f"django-{name.replace('_', '-')}"
        for name in (
            *("allauth", "axes", "compressor", "constance", "crispy_forms", "environ", "guardian", "haystack"),
            *("admin_interface", "auditlog", "ckeditor", "colorfield", "embed_video", "grappelli", "hijack"),
            *("health_check", "hitcount", "imagekit", "import_export", "jazzmin", "leaflet", "loginas", "markdownx"),
            *("mathfilters", "modeltranslation", "mptt", "multiselectfield", "nested_admin", "polymorphic"),
            *("reversion", "rosetta", "silk", "simple_history", "storages", "tables2", "tailwind", "taggit"),
            *("tinymce", "two_factor", "unfold", "waffle", "widget_tweaks"),
        )
    },
    "anymail": "django-anymail",
    "bootstrap4": "django-bootstrap4",
    "bs4": "beautifulsoup4",
    "ckeditor_uploader": "django-ckeditor",
    "cloudinary_storage": "django-cloudinary-storage",
    "corsheaders": "django-cors-headers",
    "dateutil": "python-dateutil",
    "debug_toolbar": "django-debug-toolbar",
    "decouple": "python-decouple",
    "django_q": "django-q2",
    "django": "django",
    "django_comments": "django-contrib-comments",
    "dotenv": "python-dotenv",
    "django_htmx": "django-htmx",
    "django_filters": "django-filter",
    "djcelery_email": "django-celery-email",
    "drf_yasg": "drf-yasg",
    "jwt": "PyJWT",
    "knox": "django-rest-knox",
    "ldap": "python-ldap",
    "magic": "python-magic",
    "MySQLdb": "mysqlclient",
    "oauth2_provider": "django-oauth-toolkit",
    "phonenumber_field": "django-phonenumber-field[phonenumbers]",
    "PIL": "pillow",
    "post_office": "django-post_office",
    "psycopg2": "psycopg2-binary",
    "rest_framework": "djangorestframework",
    "rest_framework_simplejwt": "djangorestframework-simplejwt",
    "sass_processor": "django-sass-processor",
    "slugify": "python-slugify",
    "social_django": "social-auth-app-django",
    "sorl": "sorl-thumbnail",
    "split_settings": "django-split-settings",
    "treebeard": "django-treebeard",
    "webpack_loader": "django-webpack-loader",
    "yaml": "PyYAML",
    "barcode": "python-barcode",
    "bootstrap5": "django-bootstrap5",
    "channels": "channels",
    "channels_redis": "channels-redis",
    "crispy_bootstrap4": "crispy-bootstrap4",
    "crispy_bootstrap5": "crispy-bootstrap5",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python-headless",
    "dns": "dnspython",
    "docx": "python-docx",
    "fitz": "PyMuPDF",
    "git": "GitPython",
    "github": "PyGithub",
    "googleapiclient": "google-api-python-client",
    "jose": "python-jose",
    "markdown": "Markdown",
    "nacl": "PyNaCl",
    "ninja": "django-ninja",
    "OpenSSL": "pyOpenSSL",
    "pdfminer": "pdfminer.six",
    "pptx": "python-pptx",
    "psycopg": "psycopg[binary]",
    "pymysql": "PyMySQL",
    "rest_framework_nested": "drf-nested-routers",
    "serial": "pyserial",
    "sklearn": "scikit-learn",
    "telegram": "python-telegram-bot",
    **{
        name: name.replace("_", "-")
        for name in (
            *("aiohttp", "arrow", "bleach", "boto3", "celery", "cloudinary", "cryptography", "feedparser", "geoip2"),
            *(
                "html5lib",
                "httpx",
                "humanize",
                "icalendar",
                "ldap3",
                "lxml",
                "matplotlib",
                "nltk",
                "num2words",
                "numpy",
            ),
            *("openai", "openpyxl", "orjson", "pandas", "pdfkit", "pendulum", "phonenumbers", "plotly", "polib"),
            *("psutil", "pydantic", "pydantic_settings", "pypdf", "pytz", "qrcode", "razorpay", "redis", "reportlab"),
            *("requests", "rq", "scipy", "segno", "sentry_sdk", "simplejson", "stripe", "tabulate", "tqdm", "twilio"),
            *("ujson", "unidecode", "vobject", "weasyprint", "whoosh", "xhtml2pdf", "xlrd", "xlsxwriter", "xlwt"),
            *("xmltodict", "zeep"),
        )
    },
}
#: Modules that projects have in their settings for development and leave out of their requirements; no other package
#: brings them.
LEFT_OUT = {
    *("anymail", "corsheaders", "debug_toolbar", "decouple", "dj_database_url", "django_extensions", "django_q"),
    *("environ", "import_export", "sentry_sdk", "silk", "whitenoise", "widget_tweaks"),
}

#: Modules that pages are made with and that few other packages bring → what the names of these have.
SELDOM = {
    "bs4": r"wagtail|bootstrap|coderedcms|inlinestyler|premailer|scrap|marka?down|html",
    "docx": r"docx",
    "markdown": r"markdown|mdeditor|martor|wiki|wagtail|docs",
    "openpyxl": r"import-export|tablib|pandas|excel|wagtail",
    "pptx": r"pptx",
    "qrcode": r"two-factor|otp|mfa|allauth|qr",
    "reportlab": r"pdf|svglib|rlpycairo|barcode",
    "stripe": r"stripe|pay",
    "xlrd": r"import-export|tablib|pandas|excel",
    "xlsxwriter": r"excel|wagtail|polars",
    "xlwt": r"import-export|tablib|excel",
}


def package_of(module: str) -> str:
    """Return the package that has a module; empty if that is not known."""
    known = _PACKAGES.get(module, "")
    is_own_name = module in LEFT_OUT or re.match(r"(django(?!_formula)|drf|wagtail|rest)_\w+$", module)
    return known or (module.replace("_", "-") if is_own_name else "")
