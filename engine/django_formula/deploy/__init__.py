"""What a deployment does: steps, plan, switch, migrations, rollback, and the removal of a site."""
