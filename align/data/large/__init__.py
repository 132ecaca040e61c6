"""Rows by the million: `mapped` tokenises them in several processes, `cached` keeps what was made of them in files that
are mapped into memory, `pace` tells how far it is."""
