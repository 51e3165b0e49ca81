from restore_vlm.cli import main

main()
